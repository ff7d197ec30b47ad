"""What `model.kind` names: C²SRT and the baselines, each with the settings of its own
(`model.baseline`), where its network is, and what other verbs know of it.

A new baseline needs: its settings and its line in `KINDS` here, its network in
c2srt/model/baselines/<kind>.py, and configs/networks/<kind>.yaml with what else belongs to it.

Nothing here imports torch: a wrong key is refused before anything is loaded.
"""

from dataclasses import dataclass
from typing import Any, get_type_hints

from c2srt.choices import Option
from c2srt.errors import UserError
from c2srt.keys import refuse_below
from c2srt.shown import shown


@dataclass
class Settings:
    """What `model.baseline` sets; the defaults are the original's values."""


@dataclass
class MktSettings(Settings):
    """MKT's."""

    topk: int = 16
    """Patches that a category's local score is the mean of."""

    def __post_init__(self) -> None:
        refuse_below(self, 1, "model.baseline", "topk")


@dataclass
class LesaSettings(Settings):
    """LESA's."""

    attentions: int = 10
    """T."""
    distribution: float = 0.1
    global_: float = 0.001
    span: float = 0.01
    """With the two before, the weights of its three regularisers, as the release's for a batch of
    32.
    """

    def __post_init__(self) -> None:
        refuse_below(self, 1, "model.baseline", "attentions")
        refuse_below(self, 0, "model.baseline", "distribution", "global_", "span")


@dataclass
class BiamSettings(Settings):
    """BiAM's."""

    channels: int = 256
    heads: int = 8
    """Of the region block; they divide the channels. 8 in the release's script for NUS-WIDE, 16 in
    the one for Open Images.
    """
    topk: int = 6
    """Regions whose mean is a category's score."""

    def __post_init__(self) -> None:
        refuse_below(self, 1, "model.baseline", "channels", "heads", "topk")


@dataclass
class ZsSdlSettings(Settings):
    """ZS-SDL's."""

    rows: int = 7
    """M."""
    regulariser: float = 0.3
    """w: weight of the rows' variance, 1 − w that of the ranking."""

    def __post_init__(self) -> None:
        refuse_below(self, 2, "model.baseline", "rows")  # one row has no variance
        if not 0 <= self.regulariser < 1:
            raise UserError(f"model.baseline.regulariser={self.regulariser} is outside [0, 1)")


class QksLoss(Option):
    """Binary cross-entropy, or the asymmetric loss of the NUS-WIDE experiment."""

    BCE = "bce"
    ASL = "asl"


@dataclass
class QksSettings(Settings):
    """QKS's."""

    queries: int = 22
    layers: int = 8
    """9.5 M parameters each at ViT-B's width."""
    loss: str = QksLoss.BCE

    def __post_init__(self) -> None:
        refuse_below(self, 1, "model.baseline", "queries", "layers")
        self.loss = QksLoss.read("model.baseline.loss", self.loss)


LEAST_ENTROPY = 0.02


@dataclass
class RamSettings(Settings):
    """RAM's."""

    blocks: int = 3
    """The last ones of the tower, which have an adapter each."""
    prompts: int = 8
    """Learned tokens beside those of each of these blocks."""
    entropy: float = 0.1
    """Weight of the plan's entropy."""
    knowledge: float = 0.05
    """Weight of the frozen CLIP's distribution over the patches; 0: none."""
    temperature: float = 0.185
    """Of the local scores, where they start: the 2e-4 of the release's NUS-WIDE times its 925
    categories. On COCO it has 2e-3 and 48: 0.096.
    """

    def __post_init__(self) -> None:
        refuse_below(self, 1, "model.baseline", "blocks")
        refuse_below(self, 0, "model.baseline", "prompts", "knowledge")
        if self.entropy < LEAST_ENTROPY:
            raise UserError(
                f"model.baseline.entropy={self.entropy} must be at least {LEAST_ENTROPY}: below it"
                " a plan's exp(−cost / entropy) is lost in float32"
            )
        if self.temperature <= 0:
            raise UserError(f"model.baseline.temperature={self.temperature} must be above 0")


@dataclass(frozen=True)
class Kind:
    """One kind of network."""

    network: str
    """Its class, as `module:name` below c2srt.model; c2srt/model/build.py imports it."""
    settings: type[Settings] = Settings
    figures: str | None = None
    """The key by which `c2srt figures` takes an export of it; None: it draws none."""
    planned: bool = False
    """Whether `c2srt plan` can count its head."""


KINDS = {
    "c2srt": Kind("network:C2SRT", figures="model", planned=True),
    "mkt": Kind("baselines.mkt:Mkt", MktSettings, figures="mkt"),
    "lesa": Kind("baselines.lesa:Lesa", LesaSettings),
    "biam": Kind("baselines.biam:Biam", BiamSettings),
    "zs_sdl": Kind("baselines.zs_sdl:ZsSdl", ZsSdlSettings),
    "qks": Kind("baselines.qks:Qks", QksSettings),
    "ram": Kind("baselines.ram:Ram", RamSettings),
}
DRAWN = {kind.figures: name for name, kind in KINDS.items() if kind.figures}
"""The kind that each key of `c2srt figures` takes."""
WORDS = {int: "a whole number", float: "a number", str: "text"}


def read_settings(name: str, given: dict[str, Any]) -> Settings:
    """`model.baseline` as the settings of one kind. Raises UserError on a key that it does not
    have, or a value that it cannot take.
    """
    known = get_type_hints(KINDS[name].settings)
    if given and not known:
        raise UserError(
            f"model.baseline is set, but model.kind={name} has nothing of it: take a baseline,"
            " such as model=mkt"
        )
    if unknown := sorted(set(given) - set(known)):
        raise UserError(
            f"model.baseline.{unknown[0]} is no setting of model.kind={name}, which has"
            f" {', '.join(known)}"
        )
    for key, value in given.items():
        wanted = known[key]
        taken = (int, float) if wanted is float else wanted
        if isinstance(value, bool) or not isinstance(value, taken):
            raise UserError(f"model.baseline.{key}={shown(value)} must be {WORDS[wanted]}")
    return KINDS[name].settings(**given)
