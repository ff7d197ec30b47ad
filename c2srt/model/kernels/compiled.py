"""Compiles the kernels for GPUs that are not there, exactly as a call would launch them, and reads what ptxas says of each."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from c2srt.model import kernels

BLACKWELL = 100
FORWARD, SLOTS, ROWS = "forward_kernel", 5, 40


@dataclass(frozen=True)
class Compiled:
    """`registers` of a thread, `spilled` bytes of a thread (stores and loads), `shared` bytes of a program."""

    kernel: str
    registers: int
    spilled: int
    shared: int
    warps: int
    ptx: str


class Absent:
    """Stands in for the driver of a GPU of compute capability `capability` (90 for 9.0): says what to compile for."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


def compile_kernels(capability: int, patches: int, width: int, heads: int, dtype: torch.dtype) -> list[Compiled]:
    """All kernels that a head of these sizes launches: the ISR's, and the GATv2's where d = width / heads has one.

    Not in a process that launches kernels: the driver is replaced. Raises what Triton raises if one does not compile.
    """
    driver.set_active(Absent(capability))
    found: list[Compiled] = []
    launch = JITFunction.run

    def compile_only(self, *arguments, warmup, **options):
        kernel = launch(self, *arguments, warmup=True, **options)
        found.append(Compiled(self.__name__, *resources(kernel.asm["ptx"], capability), kernel.metadata.shared,
                              kernel.metadata.num_warps, kernel.asm["ptx"]))

    JITFunction.run = compile_only
    try:
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
    kernels.attention_backward(nodes, nodes, nodes, attention, alpha, table, kernels.reversed_adjacency(table, ROWS))


def resources(ptx: str, capability: int) -> tuple[int, int]:
    """Registers and spilled bytes of a thread, as ptxas tells them."""
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    newer = folder / "ptxas-blackwell"
    program = newer if capability >= BLACKWELL and newer.exists() else folder / "ptxas"
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "kernel.ptx"
        source.write_text(ptx, encoding="utf-8")
        target = re.search(r"^\.target (\w+)", ptx, re.M)[1]
        told = subprocess.run([program, "-v", f"--gpu-name={target}", source, "-o", Path(scratch) / "kernel.cubin"],
                              capture_output=True, text=True, check=True, encoding="utf-8").stderr
    stores, loads = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", told).groups()
    return int(re.search(r"Used (\d+) registers", told)[1]), int(stores) + int(loads)
