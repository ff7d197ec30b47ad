"""Times and peak memory of two or more ways to compute the same, in one run.

The sides take turns, so that a machine that slows down slows all of them; memory is measured in a
run of its own, since watching the allocator costs time. The CPU's seconds stand beside the clock's:
on a busy machine only they tell anything.
"""

import os
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault(
    "KINETO_LOG_LEVEL", "99"
)  # the profiler that counts bytes reports its own doings on stderr

import torch
from torch.profiler import ProfilerActivity, profile

MIB = 2**20
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Stopwatch:
    """Seconds, by the clock and of the CPU (all threads), of what runs inside `with watch:`; and
    the most bytes, where another process was watched.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    peak: int | None = None

    def __enter__(self) -> None:
        self.started = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.started[0]
        self.cpu += time.process_time() - self.started[1]


@dataclass
class Side:
    """One way: `call()` computes `images` images; if it returns a `Stopwatch`, only what that saw
    counts as its time. `returned` bytes are results that any way must give (gradients of the
    inputs) and do not count. `numpy`: its memory is NumPy's, not torch's. `timed` false: only its
    memory is measured. `baseline`: the sides after it are compared with it. `fresh()`, where given,
    makes the call whose memory is measured: one without the buffers that earlier calls left behind.
    """

    name: str
    call: Callable[[], object]
    images: int = 1
    returned: int = 0
    timed: bool = True
    baseline: bool = False
    fresh: Callable[[], Callable[[], object]] | None = None
    numpy: bool = False
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: int | None = None

    @property
    def median(self) -> float | None:
        """Seconds an image."""
        return statistics.median(self.seconds) / self.images if self.seconds else None

    @property
    def median_cpu(self) -> float | None:
        """CPU seconds an image."""
        return statistics.median(self.cpu) / self.images if self.cpu else None

    @property
    def spread(self) -> float | None:
        """Half of the range, seconds an image."""
        return (max(self.seconds) - min(self.seconds)) / 2 / self.images if self.seconds else None


def measure(
    sides: list[Side], repeats: int, warmup: int, device: torch.device, note: Callable[[str], None]
) -> None:
    """Fills seconds and peak of every side; what watches see of other processes counts as its
    memory.
    """
    for side in sides:
        for _ in range(warmup * side.timed):
            note(f"warm-up: {side.name}")
            seconds_of(side.call, device)
    for turn in range(repeats):
        for side in sides:
            if side.timed:
                note(f"{side.name}, {turn + 1} of {repeats}")
                watch = seconds_of(side.call, device)
                side.seconds.append(watch.seconds)
                side.cpu.append(watch.cpu)
                if watch.peak is not None:
                    side.peak = max(side.peak or 0, watch.peak)
    for side in (each for each in sides if each.peak is None):
        note(f"memory: {side.name}")
        side.peak = peak_of(side, device)


def seconds_of(call: Callable[[], object], device: torch.device) -> Stopwatch:
    """What one call takes, or what the `Stopwatch` that it returns has seen."""
    watch = Stopwatch()
    synchronise(device)
    with watch:
        result = call()
        synchronise(device)
    return result if isinstance(result, Stopwatch) else watch


def median_seconds(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median seconds of a call after one that does not count."""
    call()
    found = sorted(seconds_of(call, device).seconds for _ in range(repeats))
    return found[len(found) // 2]


def peak_of(side: Side, device: torch.device) -> int:
    """Most bytes that one call holds beyond what was there before and what it returns."""
    call = side.fresh() if side.fresh else side.call
    if device.type == "cuda":
        synchronise(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        synchronise(device)
        return torch.cuda.max_memory_allocated(device) - before - side.returned
    return (numpy_peak if side.numpy else allocator_peak)(call) - side.returned


def allocator_peak(call: Callable[[], object]) -> int:
    """The peak of what torch's CPU allocator hands out during `call`."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    events = [
        event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    current = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak


def numpy_peak(call: Callable[[], object]) -> int:
    """The peak of what NumPy and Python allocate during `call`."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def gemm_rate(
    device: torch.device, dtype: torch.dtype, size: int = 2048, repeats: int = 5
) -> float:
    """Floating-point operations a second of a square matrix product: what the device can do at
    best, measured in this run.
    """
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    measured = [seconds_of(lambda: left @ right, device).seconds for _ in range(repeats + 1)]
    return 2 * size**3 / min(measured[1:])


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device, threads: int) -> str:
    """What did the work, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {threads} threads"


def device_of(choice: str) -> torch.device:
    """The device that auto, cpu or cuda means here."""
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")
