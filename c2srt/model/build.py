"""The network of a configuration."""

from importlib import import_module

from c2srt.backbone.clip import Clip
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.graph import Graph
from c2srt.model.kinds import KINDS
from c2srt.model.network import Network


def network_of(kind: str) -> type[Network]:
    """The class of a kind; only its own module is imported."""
    module, _, name = KINDS[kind].network.partition(":")
    return getattr(import_module(f"c2srt.model.{module}"), name)


def build_student(
    clip: Clip,
    config: ModelConfig,
    loss: LossConfig,
    graph: Graph,
    seen_count: int,
    online_teacher: bool = False,
) -> Network:
    """The network of a configuration; arguments as `Network`. Raises UserError when they do not fit
    each other.
    """
    return network_of(config.kind)(clip, config, loss, graph, seen_count, online_teacher)
