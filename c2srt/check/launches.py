"""What a step asks of the device, counted: launches and reads of a micro-batch and of a whole step
with its update, through the engine and the kernels, at a ViT of ViT-B/16's depth and a small width.

`python -m c2srt.check gpu parts=[launches]`. Counts depend on no size but the number of layers and
tiles, so that a CPU, on which Triton's kernels run in its interpreter, counts what a GPU does.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

from c2srt.check.case import Case
from c2srt.check.config import Shape
from c2srt.check.counting import Counted, counted
from c2srt.check.step import make_batch, make_student
from c2srt.check.zero import join_alone, make_engine

DEEP = Shape("twelve blocks", "deep", 16, 32, 2)
IMAGES, CATEGORIES, ACCUMULATION, MOST_READS = 1, 8, 2, 2


def launches(case: Case) -> Iterator[dict]:
    """A micro-batch, and the step that two of them make, for ZeRO 0; wrong where a micro-batch
    reads anything, or a step more than twice.
    """
    case = replace(case, sizes=replace(case.sizes, categories=CATEGORIES))
    join_alone(case)
    whole, micro = count_step(case)
    for what, found, most in (("a micro-batch", micro, 0), ("a step of two", whole, MOST_READS)):
        operators, kernels, reads = found.totals
        row: dict[str, str | int] = {
            "what": f"{what}, {case.best}",
            "operators": operators,
            "Triton kernels": kernels,
            "reads": reads,
        }
        if reads > most:
            row["wrong"] = f"{what} reads {reads} values, {most} are allowed: {dict(found.reads)}"
        yield row


def count_step(case: Case) -> tuple[Counted, Counted]:
    """A whole step, and its first micro-batch, after one step that does not count."""
    student = make_student(case, DEEP).float()
    batch = make_batch(case, student, IMAGES)
    engine = make_engine(case, student, 0, IMAGES, ACCUMULATION)
    engine.train_step([batch] * ACCUMULATION, 1.0)
    marks: list[tuple[Counter, Counter]] = []
    with as_on_a_gpu(), counted() as whole:

        def batches() -> Iterator[tuple]:
            for _ in range(ACCUMULATION):
                marks.append((whole.launches.copy(), whole.reads.copy()))
                yield batch

        engine.train_step(batches(), 1.0)
    micro = Counted()
    micro.launches, micro.reads = marks[1][0] - marks[0][0], marks[1][1] - marks[0][1]
    return whole, micro


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """What asks for values only where the host need not wait asks nothing."""
    with (
        patch("c2srt.model.loss.runs_ahead", lambda device: True),
        patch("c2srt.model.isr.runs_ahead", lambda device: True),
        patch("c2srt.model.isr.largest", lambda scores, most: scores.topk(most, dim=-1)),
    ):
        yield
