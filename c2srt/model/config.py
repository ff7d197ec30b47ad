"""what the paper fixes and what it leaves open about the network and the loss; defaults are in
DECISIONS.md.
"""

from dataclasses import dataclass
from typing import Any

from c2srt.choices import Option, check_choice
from c2srt.errors import UserError
from c2srt.keys import Mark, key
from c2srt.model.kinds import KINDS, Settings, read_settings
from c2srt.shown import shown

DEEPEST = 32  # layers of the head; the paper has 2
NEVER = 2.0
"""A threshold that no sum of softmax scores reaches."""


class Form(Option):
    """How the head computes."""

    TILED = "tiled"
    """Bounded memory."""
    LITERAL = "literal"
    """The paper's steps in plain torch and PyG, to compare with."""


class Pooling(Option):
    """A category's weights over its chosen patches. They sum to 1, whichever is taken: the head
    applies to the patches what is affine in their mean (c2srt/model/pool.py).
    """

    MEAN = "mean"
    WEIGHTED = "weighted"
    """By their softmax scores."""


class Init(Option):
    """How the head starts."""

    CLIP = "clip"
    """Step 0 scores like CLIP (W_out = 0, FFN_in = [I | 0])."""
    LITERAL = "literal"
    """Random, as the paper's text reads."""


@dataclass
class KindConfig:
    """Which network it is."""

    kind: str = key(
        "c2srt",
        (
            "c2srt, or a baseline: mkt, lesa, biam, zs_sdl, qks, ram; model=… on the "
            "command line sets it with all that belongs to it"
        ),
    )
    baseline: dict[str, Any] = key(
        {}, "what a baseline has of its own (its settings there), where not the original's"
    )

    def settings(self) -> Settings:
        """what a baseline has of its own, whole. Raises UserError on what it has not."""
        return read_settings(self.kind, self.baseline)


@dataclass
class HeadConfig:
    """The head of C²SRT; every row of the paper's ablations is a value here. To a baseline only
    `neighbours` means something: how much of the graph its export keeps.
    """

    isr: bool = key(
        True,
        (
            "intra-category semantic refinement (sec. 3.3); off: the image "
            "feature of every category is the global one"
        ),
    )
    ist: bool = key(
        True,
        (
            "inter-category semantic transfer (sec. 3.4); off: a category is "
            "scored by its own image feature"
        ),
    )
    form: str = key(
        Form.TILED,
        (
            "tiled: bounded memory | literal: the paper's steps in plain torch "
            "and PyG, to compare with"
        ),
    )
    threshold: float = key(
        0.5, "α: patches are taken until their softmax scores sum to it; 1: as many as N lets it"
    )
    max_patches: int = key(32, "N: at most this many patches a category; 65536: all there are")
    isr_scale: float | None = key(
        None,
        "logit scale inside the patch softmax; null: CLIP's own (100 for the released models)",
    )
    pooling: str = key(
        Pooling.MEAN, "mean of the chosen patches | weighted by their softmax scores"
    )
    input_layers: int = key(
        1, "depth of FFN_in (eq. 6); from the second layer on with GELU between"
    )
    layers: int = key(2, "GATv2 layers")
    heads: int = key(8, "H attention heads; they split D")
    neighbours: int = key(
        4, "K related seen categories a category hears (4 on Open Images, 16 on NUS-WIDE)"
    )
    self_loops: bool = key(True, "whether a category also hears itself")
    residual: bool = key(
        True, "h + σ(…) instead of eq. 23's σ(…) alone, so that layers can start as the identity"
    )
    init: str = key(
        Init.CLIP,
        (
            "clip: the first scores are CLIP's (W_out = 0, FFN_in = [I | 0]) | "
            "literal: random, as the paper's text reads"
        ),
    )
    score_scale: float = key(
        8.0, "multiplies the cosine of eq. 10; margin 1 is met only when it exceeds 1"
    )

    def __post_init__(self) -> None:
        self.form = Form.read("model.form", self.form)
        self.pooling = Pooling.read("model.pooling", self.pooling)
        self.init = Init.read("model.init", self.init)
        if not 0 < self.threshold <= 1:
            raise UserError(
                f"model.threshold={self.threshold} is outside (0, 1]: for no local features set"
                " model.isr=false"
            )
        if self.init == Init.CLIP and self.ist and not self.residual:
            raise UserError(
                "model.init=clip needs model.residual=true: without it W_out = 0 would score"
                " nothing"
            )
        self.check_sizes()
        if self.neighbours < 0 or self.neighbours == 0 and not self.self_loops:
            raise UserError("model.neighbours must be at least 1, or 0 with model.self_loops=true")
        if self.score_scale <= 0 or self.isr_scale is not None and self.isr_scale <= 0:
            raise UserError("model.score_scale and model.isr_scale must be above 0")

    @property
    def enough(self) -> float:
        """The sum of softmax scores at which no further patch is taken. α = 1 is all patches, but
        rounded sums reach 1 long before the last one, so then it is one that none reaches.
        """
        return NEVER if self.threshold >= 1 else self.threshold

    def check_sizes(self) -> None:
        for name, most in (
            ("max_patches", 1 << 16),
            ("input_layers", DEEPEST),
            ("layers", DEEPEST),
            ("heads", 1 << 10),
        ):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name}={getattr(self, name)} must be at least 1")
            if getattr(self, name) > most:
                raise UserError(
                    f"model.{name}={shown(getattr(self, name))} must be at most {most:,}"
                )


@dataclass
class ModelConfig(HeadConfig, KindConfig):
    """The student: its kind, C²SRT's head, and what every kind has. Files list the fields flat, in
    this order: kind, baseline, the head's, these.
    """

    trainable_blocks: int | None = key(
        2,
        (
            "last blocks of the ViT that train, with ln_post and proj (2: MKT's "
            "choice); null: the whole ViT"
        ),
    )
    tile_mib: int | None = key(
        None,
        ("memory for one tile of the head; null: 256 on a CPU, a quarter of a GPU's"),
        unit="MiB",
        mark=Mark.HARMLESS,
    )

    def __post_init__(self) -> None:
        check_choice("model.kind", self.kind, tuple(KINDS))
        self.settings()
        super().__post_init__()


class Unverified(Option):
    """what the loss takes a category for that nobody verified."""

    NEGATIVE = "negative"
    """A negative: every category that is not positive (eq. 11)."""
    IGNORE = "ignore"
    """Nothing: only categories verified as absent are negatives."""


class Reduction(Option):
    """what an image's hinges become; the mean over images is taken of it."""

    VIOLATIONS = "violations"
    """Their sum / the number of violating pairs (MKT)."""
    SUM = "sum"
    """The paper's plain sum."""


class DistillationReduction(Option):
    """what the |differences| of a feature's D values become."""

    MEAN = "mean"
    """Over D (MKT)."""
    NORM = "norm"
    """Eq. 2's L1 norm, D times larger."""


@dataclass
class LossConfig:
    """Eq. 11, 2 and 12."""

    unverified: str = key(
        Unverified.NEGATIVE,
        "negative: all that is not positive (eq. 11) | ignore: only verified absences",
    )
    reduction: str = key(
        Reduction.VIOLATIONS,
        (
            "violations: sum of an image's violating pairs / their number (MKT) "
            "| sum: the paper's plain sum; mean over images"
        ),
    )
    margin: float = key(1.0, "of the ranking loss")
    distillation: float = key(1.0, "λ of eq. 12; 0 needs no teacher")
    distillation_reduction: str = key(
        DistillationReduction.MEAN, "mean over D (MKT) | norm: eq. 2's L1 norm, D times larger"
    )

    def __post_init__(self) -> None:
        self.unverified = Unverified.read("loss.unverified", self.unverified)
        self.reduction = Reduction.read("loss.reduction", self.reduction)
        self.distillation_reduction = DistillationReduction.read(
            "loss.distillation_reduction", self.distillation_reduction
        )
        if self.margin < 0 or self.distillation < 0:
            raise UserError("loss.margin and loss.distillation must be at least 0")
