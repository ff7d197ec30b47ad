"""The settings that are tried for every model that trains: as many for each.

What is best by PRIMARY (c2srt/study/plan.py) on a fold's validation images is frozen in
c2srt/study/rows.py.
"""

from dataclasses import dataclass
from itertools import product

from c2srt.study.rows import CANDIDATE, NEGATIVE, NO_HEAD

TRIALS = 8


@dataclass(frozen=True)
class Tuned:
    """A model that `c2srt train` makes with the overrides `given` and those of a trial; `hears`: a
    relation graph is told. `base`: no training, but `c2srt messages` on that training of
    c2srt/study/rows.py.
    """

    trials: tuple[tuple[str, ...], ...]
    given: tuple[str, ...] = ()
    hears: bool = False
    base: str = ""

    def __post_init__(self) -> None:
        assert len(set(self.trials)) == TRIALS


def grid(**values: tuple) -> tuple[tuple[str, ...], ...]:
    """Every combination; keys with __ for the dot."""
    names = [name.replace("__", ".") for name in values]
    return tuple(
        tuple(f"{name}={value}" for name, value in zip(names, some, strict=True))
        for some in product(*values.values())
    )


TOWER = (
    (),
    ("optimizer.lr=3e-3",),
    ("optimizer.lr=1.2e-2",),
    ("model.score_scale=8",),
    ("model.score_scale=32",),
    ("loss.distillation=0.1",),
    ("loss.distillation=0.01",),
    ("loss.distillation=10",),
)
"""Of C²SRT and what is left of it: one setting at a time."""
FROZEN = grid(optimizer__head_lr=(1e-3, 3e-3, 1e-2, 3e-2), loss__unverified=("ignore", "negative"))
"""Of models whose tower does not train."""
TUNED = {
    "full": Tuned(TOWER, hears=True),
    "distillation": Tuned(TOWER, NO_HEAD),
    "mkt": Tuned(
        (
            (),
            NEGATIVE,
            *((*NEGATIVE, f"loss.distillation={weight}") for weight in (0.1, 0.01)),
            *((*NEGATIVE, "loss.distillation=0.01", f"optimizer.lr={lr}") for lr in (3e-3, 1.2e-2)),
            *((*NEGATIVE, f"loss.distillation={weight}") for weight in (0.03, 0.003)),
        ),
        ("model=mkt",),
    ),
    "zs_sdl": Tuned(
        grid(
            optimizer__head_lr=(3e-4, 3e-3),
            optimizer__lr=(3e-3, 6e-3),
            loss__unverified=("ignore", "negative"),
        ),
        ("model=zs_sdl",),
    ),
    **{name: Tuned(FROZEN, (f"model={name}",)) for name in ("lesa", "biam", "qks", "ram")},
    CANDIDATE: Tuned(
        (
            (),
            ("neighbours=0",),
            ("penalty=0.1",),
            ("penalty=0.5",),
            ("unseen_own=0",),
            ("unseen_own=1",),
            ("unseen_neighbours=8",),
            ("unseen_neighbours=8", "unseen_own=0"),
        ),
        base="distillation",
    ),
}
