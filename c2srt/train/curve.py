"""The loss terms of a training over its steps, as a picture."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from c2srt.files import whole_file
from c2srt.opened import parse_json
from c2srt.train.step_lines import numbered

TERMS = ("loss", "ranking", "distillation", "drift")
MOST = 4000
"""Points of a curve: more than the picture has columns."""


def draw_curve(metrics: Path, path: Path) -> None:
    """Of a long run, every second or n-th record is drawn, and the last one."""
    from matplotlib.figure import Figure

    lines = list(thinned(metrics))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in TERMS:
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            axes.plot(*zip(*points, strict=True), label=name)
    axes.set(xlabel="step", ylabel="loss terms", ylim=(0, None))
    if axes.lines:
        axes.legend()
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def thinned(metrics: Path) -> Iterator[dict]:
    """At most MOST lines with losses, evenly spaced, the last one among them."""
    count = sum(1 for _ in with_loss(metrics))
    stride = -(-count // MOST) or 1
    for line in islice(with_loss(metrics), (count - 1) % stride if count else 0, None, stride):
        yield parse_json(line)


def with_loss(metrics: Path) -> Iterator[bytes]:
    """Those of validation have none."""
    return (line for _, line in numbered(metrics) if b'"loss"' in line)
