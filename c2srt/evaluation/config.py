"""What `c2srt evaluate` can be told."""

from collections.abc import Iterable
from dataclasses import MISSING, dataclass

from c2srt.backbone.config import ClipConfig
from c2srt.errors import UserError
from c2srt.keys import Mark, Takes, key, refuse_below
from c2srt.model.config import check_choice
from c2srt.shared_keys import shared

PROTOCOLS = PER_CLASS, LESA, BIAM_LEGACY, QKS, DENSE = (
    "per_class",
    "lesa",
    "biam_legacy",
    "qks",
    "dense",
)
"""Of average precision; protocols.py says what each is."""
ANNOTATED = " annotated"
"""What is added to the name of an F1@K that ranks the annotated columns only (QKS's)."""
VERSIONS = {BIAM_LEGACY: 2}
"""Protocols that were mended: figures of an earlier version (1) are not compared with today's."""
CLIP, PRIOR, SPARC = UNTRAINED = ("clip", "prior", "sparc")
"""What `checkpoint` may name besides an export."""
COSINE, SOFTMAX, SIGMOID = CLIP_SCORES = ("cosine", "softmax", "sigmoid")
"""Forms of the untrained CLIP's score."""
TABLES = (".parquet", ".csv")
"""Endings of what `scores` may be besides a .npy file: score_table.py says what is in them."""
LEAST_DRAWS = 40
"""Of a bootstrap: below, no draw lies beyond the 2.5th percentile."""


def versions_of(protocols: Iterable[str]) -> dict[str, int]:
    """The versions of those that were mended: part of what results are made from."""
    return {name: VERSIONS[name] for name in protocols if name in VERSIONS}


@dataclass
class Config:
    """Keys of `c2srt evaluate`."""

    out: str = key(
        MISSING,
        "folder written: results.json, per_category.csv",
        mark=Mark.HARMLESS,
        follows="${work}/evaluation",
        takes=Takes.PLACE,
    )
    shards: str = shared("shards")
    text: str = shared("text")
    checkpoint: str = key(
        "",
        "export folder (model.safetensors + config.json), or: clip | prior | sparc (CLIP with"
        " compound prompts, their scores fused over all images of the split)",
        mark=Mark.CONTENT,
        follows="${work}/train/model",
        takes=Takes.PLACE,
    )
    split: str = key("test", "split of the shards that is scored")
    scores: str | None = key(
        None,
        (
            "anybody's scores instead of a checkpoint's: .npy [N, C] float with labels and seen; or"
            " .parquet or .csv with columns image, mid, score, or image and one for each MID, for"
            " the labels of the shards' split"
        ),
        mark=Mark.CONTENT,
    )
    labels: str | None = key(
        None,
        ".npy [N, C] in −1 (verified absent) / 0 (not verified) / 1 (present)",
        mark=Mark.CONTENT,
    )
    seen: str | None = key(
        None, ".npy [C] bool: true for seen categories; ZSL scores the others", mark=Mark.CONTENT
    )
    topk: list[int] = key(
        [10, 20], "(from data) K of F1@K, at most the number of unseen categories", composed=False
    )
    protocols: list[str] = key(
        list(PROTOCOLS),
        (
            "per_class is the headline; dense keeps all scores on disk while it runs (N · C · 4"
            " bytes)"
        ),
    )
    bootstrap: int = key(
        200,
        (
            "draws of the 95 % intervals over test images, of per_class, lesa, "
            "qks, F1@K, by `seed`; 0: none"
        ),
    )
    seed: int = shared("seed")
    clip_scores: str = key(
        COSINE,
        (
            "checkpoint=clip: cosine | softmax over all categories at CLIP's scale | sigmoid of "
            "each, of a CLIP that was trained so (SigLIP)"
        ),
    )
    neighbours: int = key(
        0,
        "a use of `relations` without training: unseen categories are scored by the mean of their"
        " first so many neighbours' scores, by relations that a name does not tell; sparc:"
        " compound prompts with these; 0: by their own",
    )
    relations: str = shared("relations")
    clip: ClipConfig = shared("clip")
    workers: int = shared("workers")
    batch: int = key(32, "images scored at a time by a worker", mark=Mark.HARMLESS)
    loader_workers: int = key(
        1, "decoding processes of each worker (0: none, decode in the worker)", mark=Mark.HARMLESS
    )

    def __post_init__(self) -> None:
        check_choice("clip_scores", self.clip_scores, CLIP_SCORES)
        if unknown := set(self.protocols) - set(PROTOCOLS):
            raise UserError(f"protocol {sorted(unknown)[0]!r} is not one of {', '.join(PROTOCOLS)}")
        if not self.topk or len(set(self.topk)) != len(self.topk) or min(self.topk) < 1:
            raise UserError(
                f"topk={self.topk} must be different numbers from 1, such as 'topk=[10,20]'"
            )
        if min(self.workers, self.batch) < 1 or self.loader_workers < 0:
            raise UserError(
                f"workers={self.workers} and batch={self.batch} must be at least 1, "
                f"loader_workers={self.loader_workers} at least 0"
            )
        if self.seed < 0 or self.bootstrap < 0 or 0 < self.bootstrap < LEAST_DRAWS:
            raise UserError(
                f"bootstrap={self.bootstrap} must be 0 (no intervals) or at least {LEAST_DRAWS}"
                f" draws, and seed={self.seed} at least 0"
            )
        refuse_below(self, 0, "", "neighbours")
        if self.checkpoint == SPARC and not self.neighbours and self.scores is None:
            raise UserError(
                "checkpoint=sparc needs neighbours for its compound prompts: give neighbours=4, and"
                " their graph as relations=…"
            )
        self.check_scores()

    @property
    def is_table(self) -> bool:
        """Whether `scores` is a table, whose labels are those of the shards."""
        return self.scores is not None and self.scores.endswith(TABLES)

    def check_scores(self) -> None:
        """Raises UserError unless there are three arrays, one table, or nothing of it."""
        given = [name for name in ("scores", "labels", "seen") if getattr(self, name) is not None]
        if given and self.neighbours:
            raise UserError(
                f"neighbours={self.neighbours} is for a checkpoint's scores, and {given[0]}=… is"
                " given: leave one of them out"
            )
        if self.is_table and len(given) > 1:
            raise UserError(
                f"scores={self.scores} is a table, whose labels are those of the shards' split:"
                f" leave {given[1]}=… out"
            )
        if given and len(given) < 3 and not self.is_table:
            raise UserError(
                f"{given[0]}=… is given, so scores, labels and seen are needed, all three, or"
                f" scores alone as a table ({', '.join(TABLES)})"
            )
