"""What rows score with: trainings, second stages, CLIP and the class prior, each made once a
world, and the images that they score.
"""

from functools import cache
from pathlib import Path

import numpy as np

from c2srt.demo import measure
from c2srt.demo.controls import clip_zero_shot, sparc
from c2srt.hints import Command
from c2srt.opened import read_json
from c2srt.relations.untold import by_neighbours, of_unseen
from c2srt.study.rows import BEST, CLIP, MESSAGES, NO_GRAPH, SPARC, TRAININGS, Row
from c2srt.study.score import best_neighbours
from c2srt.study.world import Place, relate, train
from c2srt.train.config import SUMMARY
from c2srt.vocabulary import load_vocabulary


class Bases:
    """Of one world. Letters: N images, C categories, K neighbours."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.trained = cache(self.train)
        self.split = cache(self.load)
        self.scores = cache(self.score)

    def train(self, name: str, graph: str) -> Path:
        return train(self.place, name, TRAININGS[name], graph)

    def load(self, split: str) -> measure.Split:
        place = self.place
        return measure.load_split(
            place.world, place.workspace.shards(), place.folder / "raw", split
        )

    def score(self, base: Path | str, split: str) -> np.ndarray:
        """Scores [N, C] of an export, CLIP or the class prior."""
        place, images = self.place, self.split(split)
        if isinstance(base, Path):
            return measure.model_scores(base, images.images)
        if base == CLIP:
            return clip_zero_shot(place.demo, 0, images.images)
        training = measure.load_labels(place.workspace.shards(), "train")
        return measure.prior_scores(training, len(images.ids))

    def of_row(self, row: Row, graph: str) -> tuple[np.ndarray, dict | None]:
        """Scores [N, C] of the test images, and what the training took. Trains what is missing."""
        known = graph if graph != NO_GRAPH else self.place.config.graphs[0]
        base: Path | str = row.base
        summary = None
        if row.base in TRAININGS:
            heard = graph if TRAININGS[row.base].needs_graph else NO_GRAPH
            folder = self.trained(row.base, heard)
            base, summary = folder / "model", summary_of(folder)
            if row.scores == MESSAGES:
                base = relate(self.place, row, known, folder)
        if row.scores == SPARC:
            images, relations = self.split("test").images, self.place.relations(known)
            return sparc(self.place.demo, 0, relations, row.neighbours, images), summary
        scores = self.scores(base, "test")
        if not row.neighbours:
            return scores, summary
        neighbours = self.neighbours(known, row.neighbours)
        if row.scores == BEST:
            labels = self.split("validation").labels
            chosen = best_neighbours(self.scores(base, "validation"), labels, neighbours)
            neighbours = chosen[:, None]
        return by_neighbours(scores, neighbours), summary

    def neighbours(self, graph: str, count: int) -> np.ndarray:
        """As `of_unseen` [C, count]."""
        vocabulary = load_vocabulary(self.place.workspace.shards())
        return of_unseen(self.place.relations(graph), vocabulary, count)


def summary_of(folder: Path) -> dict:
    """What a training took."""
    record = read_json(folder / SUMMARY, Command("train"))
    return {name: record[name] for name in ("steps", "seconds", "seconds_per_step", "workers")}
