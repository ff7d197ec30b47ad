"""What every part is given: the device, the sizes, and whether the kernels run here; and how faults
become sentences.
"""

import gc
import re
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from c2srt.check.config import REAL, TINY, Sizes
from c2srt.model import kernels
from c2srt.profiling import DTYPES

BF16_CAPABILITY = 8


class Skip(Exception):
    """A part or row that this machine cannot do; its text is the reason."""


@dataclass(frozen=True)
class Case:
    """`bf16` says why this device has no bfloat16, `triton` why the kernels do not run here ("": it
    has, they do).
    """

    out: Path
    device: torch.device
    sizes: Sizes
    bf16: str = ""
    triton: str = ""

    @property
    def best(self) -> str:
        """bf16 where there is one: what a training uses."""
        return "fp32" if self.bf16 else "bf16"

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.best]

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"


def make_case(out: Path) -> Case:
    """Touches the card. Where the kernels cannot run at all, the other parts take the torch
    path.
    """
    cuda = not cuda_fault()
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    bf16 = bf16_fault(torch.cuda.get_device_capability(device)) if cuda else ""
    case = Case(out, device, REAL if cuda else TINY, bf16, triton_fault(device))
    if case.triton:
        kernels.runs_on = lambda device: False
    return case


def cuda_fault() -> str:
    """Why no GPU can be used, in one sentence; "" if one can."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return ""
    return no_gpu(torch.version.cuda, [str(one.message) for one in told])


def no_gpu(built: str | None, told: list[str]) -> str:
    """The sentence for torch's own complaints."""
    if built is None:
        return "this torch is built without CUDA: install one with it"
    if any("driver on your system is too old" in text for text in told):
        found = re.search(r"found version (\d+)", " ".join(told))
        version = (
            f" (it is for CUDA {int(found[1]) // 1000}.{int(found[1]) % 1000 // 10})"
            if found
            else ""
        )
        return (
            f"the NVIDIA driver{version} is too old for this torch (CUDA {built}): update the"
            " driver, or take an older torch"
        )
    return "torch finds no GPU: see `nvidia-smi`" + (f" ({first_line(told[0])})" if told else "")


def bf16_fault(capability: tuple[int, int]) -> str:
    """Why a card of this compute capability has no bfloat16; "" if it has."""
    if capability[0] >= BF16_CAPABILITY:
        return ""
    return (
        f"compute capability {capability[0]}.{capability[1]} has no bf16 and no kernel of ours: 8.0"
        " is the least"
    )


def triton_fault(device: torch.device) -> str:
    """Why the kernels cannot run here, in one sentence: a small forward and backward is tried. ""
    if they can.
    """
    if find_spec("triton") is None:
        return "Triton is not installed: the torch path is taken"
    if not kernels.runs_on(device):
        return "Triton cannot use this device: the torch path is taken"
    try:
        if kernels.interpreted():
            from c2srt.model.kernels.interpreter import mend_index

            mend_index()
        nodes, attention = torch.ones(4, 32, device=device), torch.ones(2, 16, device=device)
        table = torch.zeros(4, 2, dtype=torch.int64, device=device)
        _, alpha = kernels.attention_forward(nodes, nodes, attention, table)
        kernels.attention_backward(
            nodes, nodes, nodes, attention, alpha, table, kernels.reversed_adjacency(table, 4)
        )
        kernels.assignment(nodes[None], nodes, 1.0, 0.5, 2, False)
    # of the compiler, the driver, or the interpreter's NumPy: any of them means no kernels
    except Exception as error:
        return f"Triton cannot run a small kernel here: {sentence(error)}"
    return ""


def sentence(error: Exception) -> str:
    """An exception as one short sentence that names its kind."""
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of memory: {first_line(str(error))}"
    return f"{type(error).__name__}: {first_line(str(error))}"


def first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"


def settle(device: torch.device) -> None:
    """Gives a part's memory back before the next one."""
    gc.collect()
    if device.type == "cuda":
        try:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        except RuntimeError:  # the card's fault, already told
            pass


def random(generator: torch.Generator, case: Case, dtype: torch.dtype, *shape: int) -> Tensor:
    """Normal values, the same on every device."""
    return torch.randn(*shape, generator=generator).to(dtype).to(case.device)
