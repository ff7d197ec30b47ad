"""The parts of the check in their order: what each looks at, how long it may take, and what it
cannot do without.
"""

from dataclasses import dataclass
from importlib.util import find_spec

from c2srt.check.config import FULL, QUICK

CPU_PATIENCE = 6
"""A CPU, which another job may share, has so many times a part's limit."""


@dataclass(frozen=True)
class Part:
    """`place` is "module:function"; the function takes a Case and yields rows. `limit_s` counts on
    a GPU.
    """

    name: str
    length: str
    limit_s: int
    place: str
    says: str
    needs: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """The packages that it needs and that are not installed."""
        return [name for name in self.needs if find_spec(name) is None]


CLIP = ("open_clip", "pydantic")
PARTS = (
    Part(
        "card",
        QUICK,
        20,
        "c2srt.check.card:rates",
        "matrix products and a copy: the yardstick of this run",
    ),
    Part(
        "isr",
        QUICK,
        30,
        "c2srt.check.kernels:isr",
        "the ISR kernel against a sort in float64, twice",
        ("triton",),
    ),
    Part(
        "gat",
        QUICK,
        35,
        "c2srt.check.kernels:gat",
        "the GATv2 kernels against autograd in float64, twice",
        ("triton",),
    ),
    Part(
        "scores",
        QUICK,
        15,
        "c2srt.check.kernels:scores",
        "the scores' kernels against autograd in float64, twice",
        ("triton",),
    ),
    Part(
        "paths",
        QUICK,
        25,
        "c2srt.check.head:paths",
        "the whole head, kernels against torch path",
        ("triton",),
    ),
    Part(
        "head",
        QUICK,
        25,
        "c2srt.check.head:head",
        "head and loss, forward and backward: time and memory",
    ),
    Part(
        "step",
        QUICK,
        30,
        "c2srt.check.step:step",
        "one whole step, ours against the literal one; launches, waits",
        (*CLIP, "torch_geometric"),
    ),
    Part(
        "train",
        FULL,
        70,
        "c2srt.check.step:train",
        "steps in a row: speed, memory, tiles, the kernels that cost most",
        CLIP,
    ),
    Part("large", FULL, 40, "c2srt.check.step:large", "the larger ViT: steps in a row", CLIP),
    Part(
        "feed",
        FULL,
        40,
        "c2srt.check.feed:feed",
        "shards in memory → loader → device",
        (*CLIP, "simplejpeg", "pyarrow"),
    ),
    Part(
        "rates",
        FULL,
        30,
        "c2srt.check.step:throughput",
        "teacher features and predictions",
        (*CLIP, "simplejpeg", "pyarrow"),
    ),
    Part(
        "zero",
        FULL,
        50,
        "c2srt.check.zero:zero",
        "DeepSpeed's ZeRO 0-3, a few steps each",
        (*CLIP, "deepspeed"),
    ),
    Part(
        "launches",
        FULL,
        40,
        "c2srt.check.launches:launches",
        "operators, kernels and reads of a micro-batch and of a step, counted",
        (*CLIP, "deepspeed", "triton"),
    ),
    Part(
        "plan",
        FULL,
        90,
        "c2srt.check.plan:plan",
        "plan's calibration, and its predictions against measured steps",
        (*CLIP, "deepspeed", "simplejpeg", "yaml"),
    ),
)


def chosen(length: str, names: list[str]) -> list[Part]:
    """The parts of a length (full has quick's, too), or those of `names`."""
    return [
        part
        for part in PARTS
        if (part.name in names if names else length == FULL or part.length == QUICK)
    ]
