"""`c2srt text`, whose features may be smoothed by a relation graph (the plainest use of one): a
category's become the mean of its own and its first K neighbours'.

Letters: C categories, K neighbours, D joint width.
"""

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from c2srt import text
from c2srt.artefact import FILES
from c2srt.hints import Command
from c2srt.opened import read_json
from c2srt.relations.neighbours import ABSENT
from c2srt.relations.table import PROVENANCE, TABLE, load_relations
from c2srt.text_config import Config
from c2srt.vocabulary import load_vocabulary


def run(config: Config) -> None:
    """Writes the text features, or says that they are up to date. Raises UserError on bad input, or
    if there is no graph to smooth them by.
    """
    if not config.smooth:
        text.run(config)
        return
    vocabulary, graph = load_vocabulary(Path(config.shards)), Path(config.relations)
    table = load_relations(graph, vocabulary, config.smooth)
    record = read_json(graph / PROVENANCE, Command("relations"))
    made_from = {"smoothed": [config.smooth, record[FILES][TABLE]]}
    text.run(config, text.Change(made_from, lambda features: smoothed(features, table)))


def smoothed(features: Tensor, table: Tensor) -> Tensor:
    """Features [C, D] -> the means with the neighbours' in `table` [C, K], L2-normalised again."""
    heard = features[table.clamp(min=0)] * (table != ABSENT)[..., None]
    return F.normalize(features + heard.sum(1), dim=-1)
