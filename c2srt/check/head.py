"""The head: its kernels against its torch path, and what it costs at several batches."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from c2srt.bench.config import Config as Bench
from c2srt.bench.head import labels, tiled_step
from c2srt.bench.sizes import LOSS, Inputs, make_inputs, ones
from c2srt.check.case import Case
from c2srt.check.config import Shape
from c2srt.check.kernels import relative
from c2srt.model import kernels
from c2srt.model.graph import Graph
from c2srt.profiling import DTYPES, MIB, Side, median_seconds, peak_of

NEAR, TIMES = {"fp32": 1e-3, "bf16": 6e-2}, 3
"""‖found − exact‖ / ‖exact‖ of loss and gradients may be so much, or so many times what the torch
path is off in the same type.
"""


def paths(case: Case) -> Iterator[dict]:
    """Loss and every gradient of the whole head, through the kernels and through torch, against the
    torch path in float64.
    """
    for precision in DTYPES:
        what = f"head, {case.sizes.base.name}, {precision}"
        if fault := case.triton or (precision == "bf16" and case.bf16):
            yield {"what": what, "skipped": fault}
            continue
        inputs = make_inputs(bench(case, case.sizes.base, precision), case.sizes.images)
        given = inputs.labels(3, 2)
        found = gradients(inputs, given)
        with torch_path():
            plain, exact = gradients(inputs, given), gradients(in_float64(inputs), given)
        yield judged(what, precision, errors(found, exact), errors(plain, exact))


def judged(what: str, precision: str, ours: dict[str, float], plain: dict[str, float]) -> dict:
    """The row: the tensor that is furthest off, measured by what it may be."""
    share = {
        name: error / max(NEAR[precision], TIMES * plain[name]) for name, error in ours.items()
    }
    worst = max(share, key=lambda name: share[name] if share[name] == share[name] else float("inf"))
    row = {
        "what": what,
        "furthest": worst,
        "its error": ours[worst],
        "torch path's": plain[worst],
        "loss error": ours["loss"],
    }
    if not share[worst] <= 1:
        row["wrong"] = (
            f"{what}: {worst} through the kernels is off by {ours[worst]:.2%} of its norm, through"
            f" torch by {plain[worst]:.2%}"
        )
    return row


def errors(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """‖found − exact‖ / ‖exact‖ by name."""
    return {name: relative(found[name], want) for name, want in exact.items()}


def in_float64(inputs: Inputs) -> Inputs:
    """The same values in float64."""
    leaves = [
        values.detach().double().requires_grad_() for values in (inputs.patches, inputs.global_)
    ]
    graph = Graph(inputs.graph.text.double(), inputs.graph.table)
    return Inputs(copy.deepcopy(inputs.head).double(), graph, inputs.tiling, *leaves)


@contextmanager
def torch_path() -> Iterator[None]:
    """No kernel runs inside."""
    runs_on, kernels.runs_on = kernels.runs_on, lambda device: False
    try:
        yield
    finally:
        kernels.runs_on = runs_on


def gradients(inputs: Inputs, labels: Tensor) -> dict[str, Tensor]:
    """The loss and its gradients by name, as float64."""
    weights = ones(inputs).to(inputs.patches.dtype)
    loss, _ = inputs.head(
        inputs.patches, inputs.global_, labels, weights, inputs.graph, LOSS, inputs.tiling
    )
    leaves = {
        "patches": inputs.patches,
        "global": inputs.global_,
        **dict(inputs.head.named_parameters()),
    }
    found = torch.autograd.grad(loss, list(leaves.values()))
    return {
        "loss": loss.detach().double(),
        **{name: one.double() for name, one in zip(leaves, found, strict=True)},
    }


def head(case: Case) -> Iterator[dict]:
    """Head and loss, forward and backward, at several batches: milliseconds and peak memory."""
    for batch in case.sizes.batches:
        config = bench(case, case.sizes.base, case.best)
        inputs = make_inputs(config, batch)
        call = partial(tiled_step, inputs, labels(inputs, config), LOSS)
        seconds = median_seconds(call, case.sizes.repeats, case.device)
        peak = peak_of(Side("head", call, batch), case.device)
        yield {
            "what": f"{case.best}, {batch} images",
            "ms": 1e3 * seconds,
            "ms an image": 1e3 * seconds / batch,
            "peak MiB": peak / MIB,
            "images a tile": inputs.tiling.images,
            "categories a part": inputs.tiling.categories,
        }


def bench(case: Case, shape: Shape, precision: str) -> Bench:
    """The benchmark's settings at a ViT's sizes."""
    sizes = case.sizes
    return Bench(
        precision=precision,
        categories=sizes.categories,
        patches=shape.patches,
        width=shape.width,
        heads=shape.heads,
        neighbours=sizes.neighbours,
        device=case.device.type,
    )
