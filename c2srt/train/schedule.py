"""How long a training is, in which batches, and its learning rate as a pure function of the step,
so that a resumed run needs no scheduler state.
"""

import math
from dataclasses import dataclass

from c2srt.errors import UserError
from c2srt.keys import Mark, key, refuse_below


@dataclass
class ScheduleConfig:
    """Epochs, batches and warm-up."""

    epochs: int = key(8, "passes over the training images", mark=Mark.HARMLESS)
    steps: int | None = key(None, "optimizer updates instead of whole epochs", mark=Mark.HARMLESS)
    warmup: float = key(
        0.05, "share of the steps with a rising learning rate; then half a cosine down"
    )
    batch: int = key(
        64,
        (
            "images of one update over all workers; accumulation = batch / "
            "(micro_batch × workers), rounded up"
        ),
    )
    micro_batch: int = key(8, "images at once on one worker, at most: memory", mark=Mark.HARMLESS)
    streams: int = key(
        0,
        "0: all workers read the same few shards at a time. 512, for many nodes: each node reads a"
        " share of the shards of its own, the same in every epoch; the order of images is another",
    )

    def __post_init__(self) -> None:
        refuse_below(self, 1, "schedule", "epochs", "batch", "micro_batch")
        refuse_below(self, 0, "schedule", "streams")
        if self.steps is not None and self.steps < 1:
            raise UserError(
                f"schedule.steps={self.steps} must be at least 1, or null for whole epochs"
            )
        if not 0 <= self.warmup < 1:
            raise UserError(f"schedule.warmup={self.warmup} must be in [0, 1)")

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimizer updates of the whole run: `steps`, or `epochs` times an epoch's."""
        return self.steps if self.steps is not None else self.epochs * steps_per_epoch

    def warmup_steps(self, total: int) -> int:
        return round(self.warmup * total)


def learning_rate_factor(step: int, steps: int, warmup_steps: int) -> float:
    """Factor in (0, 1] on every group's learning rate for the update after `step` finished ones,
    `steps` in all.

    Linear warm-up (the first update takes 1 / warmup_steps), then half a cosine that would reach 0
    one update after the last. Source: Loshchilov & Hutter, SGDR (2017), one period without
    restarts.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))
