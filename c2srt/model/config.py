"""What the paper fixes and what it leaves open about the network and the loss; defaults are in
DECISIONS.md.
"""

from dataclasses import dataclass, field
from typing import Any, Optional

from c2srt.errors import UserError
from c2srt.shown import shown

DEEPEST = 32  # layers of the head; the paper has 2


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises UserError when a config value is none of its choices."""
    if value not in choices:
        raise UserError(f"{name}='{shown(value)}' is not one of {', '.join(choices)}")


@dataclass
class ModelConfig:
    """The student and its head; every row of the paper's ablations is a value here."""

    kind: str = "c2srt"
    """c2srt, or a baseline (c2srt/model/baselines): mkt, lesa, biam, zs_sdl, qks. To a baseline
    only `trainable_blocks` and `tile_mib` of the fields below mean something, and `baseline`.
    """
    baseline: dict[str, Any] = field(default_factory=dict)
    """What a baseline has of its own (its `Settings`), where not the original's."""
    isr: bool = True
    """Intra-category semantic refinement (sec. 3.3); off: the image feature of every category is
    the global one.
    """
    ist: bool = True
    """Inter-category semantic transfer (sec. 3.4); off: a category is scored by its own image
    feature.
    """
    form: str = "tiled"
    """tiled: bounded memory; literal: the paper's steps in plain torch and PyG, to compare with."""
    threshold: float = 0.5
    """α: patches are taken until their softmax scores sum to it."""
    max_patches: int = 32
    """N: at most this many patches a category."""
    isr_scale: Optional[float] = None
    """Logit scale inside the patch softmax; None: CLIP's own (100 for the released models)."""
    pooling: str = "mean"
    """mean of the chosen patches, or `weighted` by their softmax scores."""
    input_layers: int = 1
    """Depth of FFN_in (eq. 6); from the second layer on with GELU between."""
    layers: int = 2
    """GATv2 layers."""
    heads: int = 8
    """H attention heads; they split D."""
    neighbours: int = 4
    """K related seen categories a category hears (4 on Open Images, 16 on NUS-WIDE)."""
    self_loops: bool = True
    """Whether a category also hears itself."""
    residual: bool = True
    """h + σ(…) instead of eq. 23's σ(…) alone, so that layers can start as the identity."""
    init: str = "clip"
    """clip: step 0 scores like CLIP (W_out = 0, FFN_in = [I | 0]); literal: random, as the text
    reads.
    """
    score_scale: float = 8.0
    """Multiplies the cosine of eq. 10; margin 1 is met only when it exceeds 1."""
    trainable_blocks: Optional[int] = 2
    """Last blocks of the ViT that train, with ln_post and proj (2: MKT's choice); None: the whole
    ViT.
    """
    tile_mib: Optional[int] = None
    """Memory for one tile of the head, MiB; None: 256 on a CPU, a quarter of what is free on a GPU.
    """

    def __post_init__(self) -> None:
        check_choice("model.kind", self.kind, ("c2srt", "mkt", "lesa", "biam", "zs_sdl", "qks"))
        check_choice("model.form", self.form, ("tiled", "literal"))
        check_choice("model.pooling", self.pooling, ("mean", "weighted"))
        check_choice("model.init", self.init, ("clip", "literal"))
        if self.baseline and self.kind == "c2srt":
            raise UserError(
                "model.baseline is set, but model.kind=c2srt has nothing of it: take a baseline,"
                " such as model=mkt"
            )
        if not 0 < self.threshold <= 1:
            raise UserError(
                f"model.threshold={self.threshold} is outside (0, 1]: for no local features set"
                " model.isr=false"
            )
        if self.init == "clip" and self.ist and not self.residual:
            raise UserError(
                "model.init=clip needs model.residual=true: without it W_out = 0 would score"
                " nothing"
            )
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
        if self.neighbours < 0 or self.neighbours == 0 and not self.self_loops:
            raise UserError("model.neighbours must be at least 1, or 0 with model.self_loops=true")
        if self.score_scale <= 0 or self.isr_scale is not None and self.isr_scale <= 0:
            raise UserError("model.score_scale and model.isr_scale must be above 0")


@dataclass
class LossConfig:
    """Eq. 11, 2 and 12."""

    unverified: str = "negative"
    """negative: every category that is not positive (eq. 11); ignore: only categories verified as
    absent.
    """
    reduction: str = "violations"
    """violations: sum of an image's violating pairs / their number (MKT); sum: the paper's plain
    sum. Mean over images.
    """
    margin: float = 1.0
    distillation: float = 1.0
    """λ of eq. 12."""
    distillation_reduction: str = "mean"
    """mean over D (MKT), or `norm`: eq. 2's L1 norm, D times larger."""

    def __post_init__(self) -> None:
        check_choice("loss.unverified", self.unverified, ("negative", "ignore"))
        check_choice("loss.reduction", self.reduction, ("violations", "sum"))
        check_choice("loss.distillation_reduction", self.distillation_reduction, ("mean", "norm"))
        if self.margin < 0 or self.distillation < 0:
            raise UserError("loss.margin and loss.distillation must be at least 0")
