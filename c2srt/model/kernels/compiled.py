"""Compiles the kernels for GPUs that are not there, exactly as a call would launch them, and reads
what ptxas says of each.
"""

import re
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
    """`registers` of a thread, `spilled` bytes of a thread (stores and loads), `shared` bytes of a
    program.
    """

    kernel: str
    registers: int
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


def compile_kernels(
    capability: int, patches: int, width: int, heads: int, dtype: torch.dtype
) -> list[Compiled]:
    """All kernels that a head of these sizes launches: the ISR's, and the GATv2's where d = width /
    heads has one.

    In a process of its own: the driver is replaced, and Triton keeps what it compiled, for
    whichever card. Raises what Triton raises if a kernel does not compile.
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
            call(patches, width, heads, dtype)
    finally:
        JITFunction.run = launch
    return found


def call(patches: int, width: int, heads: int, dtype: torch.dtype) -> None:
    """One call of everything; only shapes and types matter."""
    nodes = torch.zeros(ROWS, width, dtype=dtype)
    kernels.assignment(torch.zeros(2, patches, width, dtype=dtype), nodes, 100.0, 0.5, 32, False)
    head = width // heads
    if head & (head - 1):
        return
    table = torch.zeros(ROWS, SLOTS, dtype=torch.int64)
    attention, alpha = torch.zeros(heads, head, dtype=dtype), torch.zeros(ROWS, SLOTS, heads)
    kernels.attention_forward(nodes, nodes, attention, table)
    kernels.attention_backward(
        nodes, nodes, nodes, attention, alpha, table, kernels.reversed_adjacency(table, ROWS)
    )


def resources(told: str) -> tuple[int, int]:
    """Registers and spilled bytes of a thread, as ptxas tells them."""
    spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", told)
    used = re.search(r"Used (\d+) registers", told)
    assert spilled and used, told
    return int(used[1]), int(spilled[1]) + int(spilled[2])
