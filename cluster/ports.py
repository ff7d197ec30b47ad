"""Blocks of ports that nobody listens on, for Ray's services on a node of a Slurm job. Standard
library only.
"""

import socket
from contextlib import ExitStack, suppress

LOWEST, BLOCK, BLOCKS = 16000, 16, 1000
"""Below 32768, where Linux begins to give ports to whoever asks for any."""


def first_of(job: int) -> int:
    """Where a job begins to look: jobs that share a node differ here, as long as their numbers do
    in the last three digits.
    """
    return LOWEST + job % BLOCKS * BLOCK


def free_block(first: int, count: int) -> list[int]:
    """`count` ports in a row, all of them free just now, from `first` or from a later block's
    first. Raises OSError where no block is free.
    """
    for at in range(BLOCKS):
        start = LOWEST + (first - LOWEST + at * BLOCK) % (BLOCKS * BLOCK)
        ports = list(range(start, start + count))
        if all_free(ports):
            return ports
    raise OSError(
        f"no {count} ports in a row are free between {LOWEST} and {LOWEST + BLOCKS * BLOCK}"
    )


def all_free(ports: list[int]) -> bool:
    """Whether a server could listen on each of them, on every interface."""
    with ExitStack() as held, suppress(OSError):
        for port in ports:
            held.enter_context(socket.socket()).bind(("", port))
        return True
    return False
