"""Which network `model.kind` names."""

from c2srt.model.baselines.biam import Biam
from c2srt.model.baselines.lesa import Lesa
from c2srt.model.baselines.mkt import Mkt
from c2srt.model.baselines.qks import Qks
from c2srt.model.baselines.zs_sdl import ZsSdl
from c2srt.model.clip import Clip
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.head import Graph
from c2srt.model.network import C2SRT, Student

KINDS: dict[str, type[Student]] = {
    "c2srt": C2SRT,
    "mkt": Mkt,
    "lesa": Lesa,
    "biam": Biam,
    "zs_sdl": ZsSdl,
    "qks": Qks,
}


def build_student(
    clip: Clip,
    config: ModelConfig,
    loss: LossConfig,
    graph: Graph,
    seen_count: int,
    online_teacher: bool = False,
) -> Student:
    """The network of a configuration; arguments as `C2SRT`. Raises UserError when they do not fit
    each other.
    """
    return KINDS[config.kind](clip, config, loss, graph, seen_count, online_teacher)
