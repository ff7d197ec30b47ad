"""Which sizes the kernels take: nothing here needs Triton or a GPU, so `plan` can ask, too.

Shapes: P patches, D width, H heads, d = D / H, K neighbours.
"""

MOST_PATCHES = 1024
"""The ISR keeps a whole row of scores on the chip."""
MOST_LANES = 4096
"""Heads × lanes of one row, each rounded up: 16 registers in each of 256 threads."""
MOST_NEIGHBOURS = 64
"""The slots are unrolled."""
FEWEST_LANES = 16
WARP_VALUES = 512
"""Of a tile of rows that one warp holds, 16 registers a thread: a row of D = 512 then needs no
barrier at all.
"""
MOST_WARPS = 8
LEAST_SHARED = 99 * 1024
"""Bytes of shared memory that a program may have on every card since 2020."""


def power_of_two(size: int) -> int:
    """The smallest that is not below `size`."""
    return 1 << (size - 1).bit_length()


def lanes(head_width: int) -> int:
    """What a head of d values takes: Triton's tiles have powers of two, a mask hides the rest."""
    return max(FEWEST_LANES, power_of_two(head_width))


def scores_fault(width: int) -> str:
    """Why the scores have no kernel for width D, in words; "" if they have."""
    return "" if width <= MOST_LANES else f"D = {width:,} is more than {MOST_LANES:,}"


def assignment_fault(patches: int) -> str:
    """Why the ISR has no kernel for P patches, in words; "" if it has."""
    return "" if patches <= MOST_PATCHES else f"P = {patches:,} is more than {MOST_PATCHES:,}"


def attention_fault(width: int, heads: int, neighbours: int) -> str:
    """Why the GATv2 layer has no kernels for D = width, H heads and K table slots; "" if it has."""
    if width % heads:
        return f"{heads} heads do not split D = {width:,}"
    taken = power_of_two(heads) * lanes(width // heads)
    if taken > MOST_LANES:
        return f"D = {width:,} in {heads} heads takes {taken:,} lanes, more than {MOST_LANES:,}"
    if not 1 <= neighbours <= MOST_NEIGHBOURS:
        return f"K = {neighbours} is outside 1…{MOST_NEIGHBOURS}"
    return ""
