"""One evaluation in pieces: each a fixed run of the split's images, the same for any number of
workers, and waiting on disk when done, so that a killed run goes on.

    <out>/pieces-<key>/<piece>.npz          the piece's `MetricState`
    <out>/pieces-<key>/<piece>.scores.npy   float32 [images, C], only for the dense protocol

<key> is a hash of everything that decides them; the folder goes once results.json is written.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from c2srt.errors import UserError
from c2srt.evaluation.annotated import annotated_in_split
from c2srt.evaluation.config import DENSE, QKS, Config
from c2srt.evaluation.dense import COUNT_IMAGES, Thresholds, thresholds_of
from c2srt.evaluation.metric_state import MetricState, load_state, measure, merge
from c2srt.evaluation.scorers import (
    Subject,
    identity,
    load_scorer,
)
from c2srt.executor import Executor, Opens
from c2srt.files import whole_file
from c2srt.hints import Command
from c2srt.loader import Batch, LoaderConfig, evaluation_batches
from c2srt.opened import open_npy
from c2srt.progress import Progress
from c2srt.shards import ShardIndex, load_index

PIECE_IMAGES, LEAST_PIECES = 512, 8


@dataclass(frozen=True)
class Piece:
    """One task: images `number` · N / `of` … of the split, its files below `folder`. Sent to a
    worker.
    """

    number: int
    of: int
    folder: Path
    subject: Subject
    shards: Path
    config: Config

    @property
    def state(self) -> Path:
        return self.folder / f"{self.number:06}.npz"

    @property
    def scores(self) -> Path:
        return self.folder / f"{self.number:06}.scores.npy"

    @property
    def done(self) -> bool:
        return self.state.exists() and (DENSE not in self.config.protocols or self.scores.exists())


def pieces_of(
    images: int, folder: Path, subject: Subject, shards: Path, config: Config
) -> list[Piece]:
    """About PIECE_IMAGES images each, but enough pieces for several workers."""
    count = min(images, max(LEAST_PIECES, -(-images // PIECE_IMAGES)))
    return [Piece(number, count, folder, subject, shards, config) for number in range(count)]


def score(
    pieces: list[Piece], images: int, config: Config, categories: int, opens: Opens
) -> tuple[MetricState, Thresholds | None, np.ndarray | None]:
    """Scores what is missing and merges all of it; for the dense protocol also its thresholds and
    counts. Raises UserError if an image is missing.
    """
    with opens(config.workers, len(pieces), images, None) as executor:
        score_missing(pieces, images, executor)
        state = merge([load_state(piece.state) for piece in pieces])
        if state.images != images:
            raise UserError(
                f"{state.images:,} of the {images:,} images of split {config.split} were scored:"
                f" the shards changed meanwhile, run `{Command('evaluate')}` again"
            )
        if DENSE not in config.protocols:
            return state, None, None
        thresholds = thresholds_of(state, categories)
        return state, thresholds, count_all(pieces, images, thresholds, executor)


def score_missing(pieces: list[Piece], images: int, executor: Executor) -> None:
    """Runs the tasks of the pieces that are not done."""
    missing = [piece for piece in pieces if not piece.done]
    score_one = partial(score_piece, executor.share(annotated_of(missing, executor)))
    progress = Progress("score", images)
    progress.skip(sum(load_state(piece.state).images for piece in pieces if piece.done))
    run_pieces(score_one, missing, executor, progress)


def run_pieces(
    task: Callable[[Piece], int], pieces: list[Piece], executor: Executor, progress: Progress
) -> None:
    """Runs a task of each piece, which returns how many images that was."""
    what = progress.name
    try:
        for _, done in executor.map(
            task, pieces, lambda piece: f"{what} {piece.number} of {piece.of}", on_gpu=True
        ):
            progress.update(done)
    finally:
        LOADED.clear()  # where the tasks ran in this process
    progress.close()


def annotated_of(missing: list[Piece], executor: Executor) -> np.ndarray | None:
    """The columns that the qks protocol ranks, bool [2, C]; None where no piece needs them."""
    if not missing or QKS not in missing[0].config.protocols:
        return None
    first = missing[0]
    index = load_index(first.shards)
    return annotated_in_split(executor, index, first.subject.vocabulary, first.config.split)


def count_all(
    pieces: list[Piece], images: int, thresholds: Thresholds, executor: Executor
) -> np.ndarray:
    """The second look at all scores, for the dense protocol: counts int64 [T]."""
    at_least = np.zeros(len(thresholds.score), np.int64)
    together = max(1, COUNT_IMAGES * len(pieces) // max(images, 1))
    groups = [pieces[start : start + together] for start in range(0, len(pieces), together)]
    progress = Progress("dense", len(pieces), "pieces")
    count = partial(count_pieces, executor.share(thresholds))
    for some, counts in executor.map(count, groups):
        at_least += counts
        progress.update(len(some))
    progress.close()
    return at_least


LOADED: list[tuple[Subject, Any]] = []
"""The last scorer of this process, which is given many pieces."""


def scorer_of(subject: Subject, index: ShardIndex) -> Any:
    """The scorer, loaded once in each worker process. Raises UserError if its files were replaced
    since the command started.
    """
    if not LOADED or LOADED[0][0] != subject:
        check_identity(subject, index)  # before and after: they may be put back while they are read
        LOADED[:] = [
            (
                subject,
                load_scorer(subject, torch.device("cuda" if torch.cuda.is_available() else "cpu")),
            )
        ]
        check_identity(subject, index)
    return LOADED[0][1]


def check_identity(subject: Subject, index: ShardIndex) -> None:
    """Raises UserError unless what `subject` names is still what it was when the command
    started.
    """
    if identity(subject, index) != subject.identity:
        LOADED.clear()
        raise UserError(
            f"checkpoint={subject.checkpoint}, or the text features that it is compared with, was"
            " written anew while it was evaluated: run the same command again"
        )


def score_piece(annotated: Callable[[], np.ndarray | None], piece: Piece) -> int:
    """Scores one piece and writes its files; returns how many images it has."""
    config, vocabulary, index = piece.config, piece.subject.vocabulary, load_index(piece.shards)
    scorer = scorer_of(piece.subject, index)
    seen = np.arange(len(vocabulary)) < vocabulary.seen_count
    states, scores, topk = [], [], tuple(config.topk)
    for batch in batches_of(piece, scorer):
        values, isr = scorer.scores(batch.images)
        try:
            labels = batch.labels.numpy()
            states.append(measure(values, labels, seen, topk, isr=isr, annotated=annotated()))
        except UserError as error:
            raise UserError(f"images {batch.ids[0]} … {batch.ids[-1]}: {error}") from error
        scores.append(values)
    if DENSE in config.protocols:
        save_scores(piece, scores)
    state = merge(states)
    state.save(piece.state)
    return state.images


def batches_of(piece: Piece, scorer: Any) -> Iterator[Batch]:
    """The piece's images and labels, at the scorer's size."""
    config, vocabulary = piece.config, piece.subject.vocabulary
    loader = LoaderConfig(scorer.size, workers=config.loader_workers)
    run = config.split, piece.number, piece.of, config.batch
    return evaluation_batches(loader, load_index(piece.shards), vocabulary, *run)


def save_scores(piece: Piece, scores: list[np.ndarray]) -> None:
    """Writes the piece's scores, given batch by batch."""
    with whole_file(piece.scores) as temporary, temporary.open("wb") as file:
        np.save(file, np.concatenate(scores))


def count_pieces(thresholds: Callable[[], Thresholds], pieces: list[Piece]) -> np.ndarray:
    """A task: counts [T] of some pieces' scores."""
    again = "remove its folder and run the same command again"
    return thresholds().count(*(open_npy(piece.scores, again, "f") for piece in pieces))
