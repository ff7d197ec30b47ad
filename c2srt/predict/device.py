"""Where a model computes, and in which numbers."""

import torch

from c2srt.errors import UserError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
AUTO = "auto"


def device_of(named: "str | torch.device | None") -> torch.device:
    """The device that is named; auto (None) is the first NVIDIA GPU if there is one, else the CPU.
    Raises UserError if this machine has none like it.
    """
    if named in (None, AUTO):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(named)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"device={named} is none of auto, cpu, cuda, cuda:1 (and so on) and mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device={named}, but torch finds {torch.cuda.device_count()} NVIDIA GPUs here: see"
            " `nvidia-smi`, or take device=cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device=mps, but torch finds no Apple GPU here: take device=cpu")
    return device


def dtype_of(named: "str | torch.dtype | None") -> torch.dtype:
    """The type that a precision names; None is fp32. Raises UserError on another one."""
    if named is None:
        return torch.float32
    found = PRECISIONS.get(named) if isinstance(named, str) else named
    if found is None or found not in PRECISIONS.values():
        raise UserError(f"precision={named} is none of {', '.join(PRECISIONS)}")
    return found
