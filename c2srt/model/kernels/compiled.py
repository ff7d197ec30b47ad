"""Compiles the kernels for GPUs that are not there, exactly as a call would launch them, and reads
what ptxas says of each.
"""

import re
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from tempfile import TemporaryDirectory

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from c2srt.model import kernels

SLOTS, ROWS = 5, 40


@dataclass(frozen=True)
class Compiled:
    """`registers` of a thread, bytes of its `stack`, `spilled` bytes (stores and loads), `shared`
    bytes of a program.
    """

    kernel: str
    registers: int
    stack: int
    spilled: int
    shared: int
    warps: int
    ptx: str


class Absent:
    """Stands in for the driver of a GPU of compute capability `capability` (90 for 9.0): says what
    to compile for.
    """

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


def compile_isr(
    capability: int, patches: int, width: int, heads: int, dtype: torch.dtype
) -> list[Compiled]:
    """The ISR's kernel, as a head of these sizes launches it; see `compile_kernels`."""
    nodes = torch.zeros(ROWS, width, dtype=dtype)
    features = torch.zeros(2, patches, width, dtype=dtype)
    return compile_kernels(
        capability, lambda: kernels.assignment(features, nodes, 100.0, 0.5, 32, False)
    )


def compile_attention(
    capability: int, patches: int, width: int, heads: int, dtype: torch.dtype
) -> list[Compiled]:
    """The GATv2's kernels, forward and backward, as `compile_isr`."""
    nodes = torch.zeros(ROWS, width, dtype=dtype)
    table = torch.zeros(ROWS, SLOTS, dtype=torch.int64)
    attention = torch.zeros(heads, width // heads, dtype=dtype)
    alpha = torch.zeros(ROWS, SLOTS, heads)
    around = (table, kernels.reversed_adjacency(table, ROWS))

    def call() -> None:
        kernels.attention_forward(nodes, nodes, attention, table)
        kernels.attention_backward(nodes, nodes, nodes, attention, alpha, *around)

    return compile_kernels(capability, call)


def compile_scores(
    capability: int, patches: int, width: int, heads: int, dtype: torch.dtype
) -> list[Compiled]:
    """The kernels of the scores, forward and backward, as `compile_isr`."""
    nodes, upstream = torch.zeros(2 * ROWS, width, dtype=dtype), torch.zeros(2 * ROWS)
    text = torch.zeros(1, ROWS, width, dtype=dtype).expand(2, -1, -1)

    def call() -> None:
        kernels.scores(nodes, nodes, text, 4.0)
        kernels.scores_backward(upstream, nodes, nodes, text, 4.0)

    return compile_kernels(capability, call)


def compile_kernels(capability: int, call: Callable[[], object]) -> list[Compiled]:
    """What `call` launches, compiled for a card; only shapes and types matter.

    In a process that serves this card alone: the driver is replaced, and Triton keeps what it
    compiled, for whichever card. Raises what Triton raises if a kernel does not compile.
    """
    driver.set_active(Absent(capability))
    found: list[Compiled] = []
    launch = JITFunction.run

    def compile_only(self, *arguments, warmup, **options):
        with redirect_stdout(StringIO()) as told:
            kernel = launch(self, *arguments, warmup=True, **options)
        if f".target sm_{capability}" not in kernel.asm["ptx"]:
            raise RuntimeError(
                f"{self.__name__} was asked for sm_{capability} and compiled for another card"
            )
        found.append(
            Compiled(
                self.__name__,
                *resources(told.getvalue()),
                kernel.metadata.shared,
                kernel.metadata.num_warps,
                kernel.asm["ptx"],
            )
        )

    JITFunction.run = compile_only
    try:
        with TemporaryDirectory() as cache, knobs.cache.scope(), knobs.nvidia.scope():
            knobs.cache.dir = cache  # what is kept from before would have no log
            knobs.nvidia.dump_ptxas_log = True
            call()
    finally:
        JITFunction.run = launch
    return found


def resources(told: str) -> tuple[int, int, int]:
    """Registers, stack and spilled bytes of a thread, as ptxas tells them."""
    kept = re.search(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", told
    )
    used = re.search(r"Used (\d+) registers", told)
    assert kept and used, told
    return int(used[1]), int(kept[1]), int(kept[2]) + int(kept[3])
