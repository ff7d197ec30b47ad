"""The demo's figures of the rows that use a graph without training of their own: of neighbours'
scores, and of SPARC. Letters: N images, C categories, D joint width.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
from torch import Tensor

from c2srt.backbone.clip import Clip, load_clip
from c2srt.backbone.config import ClipConfig
from c2srt.demo import measure
from c2srt.evaluation.compound import sparc_scores, texts_of
from c2srt.relations.untold import by_neighbours, of_unseen, untold
from c2srt.tables.collect import Trials
from c2srt.tables.rows import CLIP, SPARC, Row, Table, Trial, controls_of
from c2srt.text import load_text
from c2srt.vocabulary import load_vocabulary


def results_of(row: Row) -> str:
    """What a row's figures are kept under."""
    return f"{row.run or row.untrained}{row.heard}"


def figures_of_controls(
    config, tables: dict[str, Table], test: measure.Split, every: list[Trial]
) -> dict[str, Trials]:
    """The figures of every control that hears a graph, by `results_of` and trial; config is
    c2srt.demo.run's.
    """
    values: dict[str, Trials] = {}
    topk = tuple(config.topk)
    plain = cache(partial(plain_scores, config, test.images))
    for row in controls_of(tables):
        if row.heard and (row.run or row.untrained in (CLIP, SPARC)):
            values[results_of(row)] = {
                trial: measure.figures(scores_of(config, row, trial, test, plain), test, topk)
                for trial in every
                if row.run or not trial[1]
            }
    return values


def scores_of(
    config,
    row: Row,
    trial: Trial,
    test: measure.Split,
    plain: Callable[[str, Trial], np.ndarray],
) -> np.ndarray:
    """Scores [N, C] of a control on the test images; `plain` is `plain_scores` of these."""
    workspace, (clip, _) = config.workspace, trial
    graph = workspace.of_clip(clip) / "relations" / row.graph
    if row.untrained == SPARC:
        return sparc(config, clip, graph, row.neighbours, test.images)
    vocabulary = load_vocabulary(workspace.shards())
    return by_neighbours(plain(row.run, trial), of_unseen(graph, vocabulary, row.neighbours))


def plain_scores(config, images: Tensor, run: str, trial: Trial) -> np.ndarray:
    """Scores [N, C] of a run's model, or of CLIP where there is no run."""
    if run:
        return measure.model_scores(config.workspace.trial(run, trial) / "model", images)
    return clip_zero_shot(config, trial[0], images)


def sparc(config, clip: int, graph: Path, count: int, images: Tensor) -> np.ndarray:
    """SPARC's scores [N, C] of uint8 [N, 3, S, S] by a CLIP of the demo, with compound prompts of a
    graph's first `count` neighbours by relations that a name does not tell.
    """
    loaded, text = clip_and_text(config, clip)
    vocabulary = load_vocabulary(config.workspace.shards())
    names, neighbours = list(vocabulary.names), untold(graph, vocabulary, count)
    texts = texts_of(loaded, text, names, neighbours)
    return sparc_scores(measure.clip_features(loaded, images), texts)


def clip_zero_shot(config, clip: int, images: Tensor) -> np.ndarray:
    """CLIP's scores [N, C] of uint8 [N, 3, S, S]."""
    return measure.clip_scores(*clip_and_text(config, clip), images)


def clip_and_text(config, clip: int) -> tuple[Clip, Tensor]:
    """The demo's CLIP of a number, and its text features [C, D]."""
    work = config.workspace.of_clip(clip)
    loaded = load_clip(
        ClipConfig(str(work / "clip/model.json"), str(work / "clip/model.safetensors"))
    )
    vocabulary = load_vocabulary(config.workspace.shards())
    return loaded, load_text(work / "text", vocabulary, loaded.hash)
