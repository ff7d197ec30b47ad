"""The plainest use of a relation graph: a category's text features become the mean of its own and
its neighbours'.
"""

import logging
from pathlib import Path

import torch.nn.functional as F

from c2srt.artefact import is_current, writing
from c2srt.opened import read_json
from c2srt.relations.neighbours import ABSENT
from c2srt.relations.table import PROVENANCE as GRAPH_RECORD, load_relations
from c2srt.text import FEATURES, MADE_BY, load_text, save_text, text_identity
from c2srt.text_config import PROVENANCE
from c2srt.vocabulary import Vocabulary

log = logging.getLogger(__name__)


def smooth(text: Path, relations: Path, neighbours: int, vocabulary: Vocabulary, out: Path) -> None:
    """Writes a folder of text features as `c2srt text` does, unless it is there."""
    table = load_relations(relations, vocabulary, neighbours)
    record = read_json(text / PROVENANCE, MADE_BY)
    graph = read_json(relations / GRAPH_RECORD, MADE_BY)["files"]
    made_from = record["made_from"] | {
        "smoothed": [text_identity(text, vocabulary), graph, neighbours]
    }
    if is_current(out / PROVENANCE, made_from, [FEATURES]):
        log.info(f"{out / FEATURES} is up to date")
        return
    features = load_text(text, vocabulary)
    heard = features[table.clamp(min=0)] * (table != ABSENT)[..., None]
    mean = F.normalize(features + heard.sum(1), dim=-1)
    with writing(out):
        save_text(out, mean.contiguous(), made_from, record["cut_names"])
