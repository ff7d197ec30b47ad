"""Evaluation of anybody's predictions from three .npy files, mapped from disk and read in blocks of
images.

scores [N, C] float (float64 stays float64), labels [N, C] in −1/0/1 of any numeric type, seen [C]
bool.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl

from c2srt.errors import UserError
from c2srt.evaluation.annotated import annotated_columns
from c2srt.evaluation.config import DENSE, QKS
from c2srt.evaluation.dense import COUNT_IMAGES, Thresholds, thresholds_of
from c2srt.evaluation.metric_state import MetricState, check_topk, drained, measure
from c2srt.evaluation.results import Task, evaluate_state
from c2srt.opened import open_npy, without
from c2srt.progress import Progress

BLOCK_SCORES = 1 << 23
"""Scores held in memory at a time (32 MiB in float32)."""


def evaluate_arrays(
    scores: Path,
    labels: Path,
    seen: Path,
    topk: tuple[int, ...],
    protocols: tuple[str, ...],
    draws: int = 0,
    seed: int = 0,
    workers: int = 1,
) -> tuple[dict, pl.DataFrame]:
    """As `evaluate_state`, from files, by `workers` threads. Raises UserError on anything that is
    not what the names say.
    """
    arrays = load_array(scores, "scores"), load_array(labels, "labels")
    task = Task(load_seen(seen), topk, protocols, draws, seed)
    check_arrays(*arrays, task)
    state = state_of(*arrays, task, workers)
    if state.positive.all() and protocols != (DENSE,):
        raise UserError(
            f"{labels} holds no −1, so every AP over verified labels would be 1: if unmarked means"
            " absent, write 2 · labels − 1, or ask for 'protocols=[dense]'"
        )
    return evaluate_state(state, task, *counted(arrays[0], state, task, workers))


def state_of(scores: np.ndarray, labels: np.ndarray, task: Task, workers: int) -> MetricState:
    """The state of scores [N, C] and labels [N, C], by `workers` threads. Raises UserError on
    scores that are not finite and other labels.
    """
    blocks, states = list(blocks_of(scores)), []
    progress = Progress("evaluate", len(scores))
    with ThreadPoolExecutor(workers) as pool:
        annotated = annotated_in(labels, task.seen, blocks, pool) if QKS in task.protocols else None
        for state in pool.map(
            lambda block: measure(
                scores[block], labels[block], task.seen, task.topk, block.start, None, annotated
            ),
            blocks,
        ):
            states.append(state)
            progress.update(state.images)
    progress.close()
    return drained(states)


def counted(
    scores: np.ndarray, state: MetricState, task: Task, workers: int
) -> tuple[Thresholds | None, np.ndarray | None]:
    """The second look at all scores [N, C], for the dense protocol: its thresholds and counts."""
    if DENSE not in task.protocols:
        return None, None
    thresholds = thresholds_of(state, len(task.seen))
    at_least = np.zeros(len(thresholds.score), np.int64)
    starts, progress = range(0, len(scores), COUNT_IMAGES), Progress("dense", len(scores))
    with ThreadPoolExecutor(workers) as pool:
        counts = pool.map(
            lambda start: thresholds.count(scores[start : start + COUNT_IMAGES]), starts
        )
        for start, some in zip(starts, counts, strict=True):
            at_least += some
            progress.update(min(COUNT_IMAGES, len(scores) - start))
    progress.close()
    return thresholds, at_least


def annotated_in(
    labels: np.ndarray, seen: np.ndarray, blocks: list[slice], pool: ThreadPoolExecutor
) -> np.ndarray:
    """The columns that the qks protocol ranks, bool [2, C]: a look at the labels [N, C] alone."""
    return np.any(list(pool.map(lambda block: annotated_columns(labels[block], seen), blocks)), 0)


def load_array(path: Path, what: str) -> np.ndarray:
    """A numeric .npy file, mapped. Raises UserError; pickled objects are never loaded."""
    if not path.exists():
        raise UserError(f"{what}={path} does not exist")
    try:
        return open_npy(path, "write one with numpy.save", "biuf")
    except UserError as error:
        raise UserError(
            f"{what}={path} is not a .npy file of numbers ({without(path, error)})"
        ) from None


def load_seen(path: Path) -> np.ndarray:
    """seen [C] as bool; integers 0 and 1 are accepted."""
    array = np.asarray(load_array(path, "seen"))
    if array.ndim != 1 or not ((array == 0) | (array == 1)).all():
        raise UserError(
            f"seen={path} must be [C] of true (seen) and false (unseen), not {list(array.shape)}"
            f" {array.dtype}"
        )
    return array.astype(bool)


def check_arrays(scores: np.ndarray, labels: np.ndarray, task: Task) -> None:
    """Raises UserError if shapes or types disagree, or the arrays are empty."""
    if scores.dtype.kind != "f":
        raise UserError(f"scores must be floats, not {scores.dtype}")
    if (
        scores.ndim != 2
        or scores.shape != labels.shape
        or task.seen.shape != scores.shape[1:]
        or not scores.size
    ):
        raise UserError(
            f"scores {list(scores.shape)}, labels {list(labels.shape)} and seen"
            f" {list(task.seen.shape)} disagree: they must be [N, C], [N, C] and [C], none of"
            " them 0"
        )
    check_topk(task.seen, task.topk)


def blocks_of(scores: np.ndarray) -> Iterator[slice]:
    """Slices of images, about BLOCK_SCORES scores each."""
    images = max(1, BLOCK_SCORES // scores.shape[1])
    for start in range(0, len(scores), images):
        yield slice(start, min(start + images, len(scores)))
