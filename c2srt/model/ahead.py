"""Whether a value that the host asks for makes it wait."""

import torch


def runs_ahead(device: torch.device) -> bool:
    """Whether the host runs ahead of the device, so that a value read, or a size that depends on
    values, makes it wait until the device has come so far: not where they are one, on a CPU.
    """
    return device.type != "cpu"
