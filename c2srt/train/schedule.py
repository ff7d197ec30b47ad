"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler
state.
"""

import math


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
