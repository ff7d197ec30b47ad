"""Bytes, seconds and FLOPs as text."""

from c2srt.plan.memory import GIB


def size(bytes_: float) -> str:
    """With a unit that leaves one to four digits."""
    for unit, limit in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(bytes_) >= limit:
            return f"{bytes_ / limit:,.1f} {unit}"
    return f"{bytes_:,.0f} B"


def seconds(value: float) -> str:
    return f"{value:,.2f} s" if value >= 1 else f"{1e3 * value:,.1f} ms"


def flops(value: float) -> str:
    return f"{value / 1e9:,.2f} GFLOP"
