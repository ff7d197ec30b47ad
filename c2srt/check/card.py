"""The card of a run: its name, driver and versions, and how fast it multiplies and copies."""

import platform
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import torch

from c2srt.check.case import Case, cuda_fault
from c2srt.check.nodes.facts import nvidia
from c2srt.profiling import DTYPES, MIB, gemm_rate, machine, median_seconds
from c2srt.surroundings import cores

VERSIONS = (
    "torch",
    "triton",
    "numpy",
    "torch-geometric",
    "open-clip-torch",
    "deepspeed",
    "hydra-core",
)


def rates(case: Case) -> Iterator[dict]:
    """Matrix products in each precision, and a copy."""
    fault = cuda_fault()
    if fault:
        yield {
            "what": "no GPU here",
            "note": f"{fault}; tiny sizes on the CPU say that the check works, nothing of a GPU",
        }
    for precision, dtype in DTYPES.items():
        if precision == "bf16" and case.bf16:
            yield {"what": f"matrix product, {precision}", "skipped": case.bf16}
            continue
        rate = gemm_rate(case.device, dtype, case.sizes.matrix, case.sizes.repeats)
        yield {"what": f"matrix product, {precision}", "TFLOP/s": rate / 1e12}
    if case.cuda:
        yield {"what": "matrix product, tf32", "TFLOP/s": tf32_rate(case) / 1e12}
    source = torch.zeros(case.sizes.copy_mib * MIB, dtype=torch.uint8, device=case.device)
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source), case.sizes.repeats, case.device)
    yield {"what": "copy, read and written", "GB/s": 2 * source.numel() / seconds / 1e9}
    if case.triton:
        yield {"what": "kernels", "note": case.triton}


def tf32_rate(case: Case) -> float:
    """FLOP/s of float32 products in TF32, as `engine.tf32=true` trains with."""
    torch.set_float32_matmul_precision("high")
    try:
        return gemm_rate(case.device, torch.float32, case.sizes.matrix, case.sizes.repeats)
    finally:
        torch.set_float32_matmul_precision("highest")


def describe() -> dict[str, str]:
    """The machine and the versions, for every line of the record: {"card", "driver", "python",
    "torch", …}.
    """
    cuda = not cuda_fault()
    threads = cores()
    found = {
        "card": machine(torch.device("cuda" if cuda else "cpu"), threads),
        "cuda": torch.version.cuda or "none",
        "driver": (nvidia("driver_version") or ["none"])[0],
        "python": platform.python_version(),
        "cores": str(threads),
    }
    if cuda:
        properties = torch.cuda.get_device_properties(0)
        found["memory"] = f"{properties.total_memory / 2**30:.0f} GiB"
        found["capability"] = f"{properties.major}.{properties.minor}"
    for name in VERSIONS:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
