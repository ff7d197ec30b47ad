"""Figure 6(a): with how many patches each category is recognised best, by AP and by F1 of the K
best labels of an image, and how many the adaptive ISR takes.

The model is scored again with an ISR that takes exactly the k best patches of every category, for
each k; nothing is trained. Images stream through, in pieces that wait on disk, so that an
interrupted run goes on: kept are verified entries (c2srt/evaluation/metric_state.py) and a few sums
a category.

Shapes: b images of a batch, C categories, T values of k, H = T + 1 heads, the adaptive one first.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from c2srt.artefact import unfinished
from c2srt.errors import UserError
from c2srt.evaluation.metric_state import ARRAYS, GZSL, MetricState, check_state, measure, merge
from c2srt.evaluation.protocols import per_class, sorted_keys
from c2srt.evaluation.topk import best
from c2srt.figures.files import pieces_of
from c2srt.figures.inputs import Inputs
from c2srt.figures.patches import with_isr
from c2srt.files import hash_of, whole_file
from c2srt.model.config import NEVER
from c2srt.model.head import Head
from c2srt.opened import read_npz
from c2srt.progress import Progress

SUMS = {"taken": ("iuf", 1), "present": ("iuf", 1), "named": ("f", 2), "hits": ("f", 2)}
"""Of a piece: letters of their dtypes, and their axes."""
PIECE_IMAGES, STEM = 128, "isr-patches"
"""How many images an interrupted run loses at most, and the figure's files."""
POSITIVES = 5
"""A category with fewer present images has no place in the distribution: its AP is chance."""


@dataclass(frozen=True)
class PatchCounts:
    """k tried [T], AP [T, C] and the adaptive ISR's [C] (NaN without a positive), best k by AP [C]
    and by F1 [C] (0: left out), the K of F1@K and its micro value of every head [H], mean patches
    taken where the category is present [C] (NaN: nowhere), present images [C], seen [C] bool, and
    how many images.
    """

    tried: list[int]
    ap: np.ndarray
    adaptive: np.ndarray
    best: np.ndarray
    best_f1: np.ndarray
    topk: int
    micro: np.ndarray
    taken: np.ndarray
    positives: np.ndarray
    seen: np.ndarray
    images: int

    def record(self) -> dict:
        return {
            "images": self.images,
            "k": self.tried,
            "least_positives": POSITIVES,
            "seen": self.seen.tolist(),
            "mAP": dict(zip(map(str, self.tried), np.nanmean(self.ap, 1).tolist(), strict=True)),
            "adaptive_mAP": float(np.nanmean(self.adaptive)),
            "best_k": self.best.tolist(),
            "K": self.topk,
            "F1": dict(zip(map(str, self.tried), self.micro[1:].tolist(), strict=True)),
            "adaptive_F1": float(self.micro[0]),
            "best_k_F1": self.best_f1.tolist(),
            "positives": self.positives.tolist(),
            "mean_patches": [None if np.isnan(value) else float(value) for value in self.taken],
        }


def made_from(inputs: Inputs) -> dict:
    config = inputs.config
    shards = {
        name: value
        for name, value in inputs.made_from().items()
        if name not in ("images", "categories")
    }
    return {
        **shards,
        **inputs.made_from_ours(),
        "fixed": config.fixed,
        "topk": config.topk[0],
        "statistics": config.statistics,
    }


def numbers(inputs: Inputs) -> PatchCounts:
    """Scores the split (or `statistics` images of it) once a k. Raises UserError if no k fits or
    nothing is present.
    """
    ours, seen = with_isr(inputs), np.arange(len(inputs.vocabulary)) < inputs.vocabulary.seen_count
    tried = [k for k in sorted(set(inputs.config.fixed)) if k <= inputs.ours.model.patch_count]
    if not tried:
        raise UserError(
            f"fixed={inputs.config.fixed}: an image has {ours.model.patch_count} patches, so none"
            " of these can be taken"
        )
    heads = [ours.model.head, *(fixed(ours.model.head, k) for k in tried)]
    places = inputs.photos.some(inputs.config.statistics)
    pieces = list(count_all(inputs, heads, places))
    taken, present, hits, named = (
        sum(getattr(piece, name) for piece in pieces)
        for name in ("taken", "present", "hits", "named")
    )
    if not present.any():
        raise UserError(
            f"none of the {len(places):,} images of split {inputs.config.split} has a positive"
            " label: nothing can be measured"
        )
    states = [merge([piece.states[place] for piece in pieces]) for place in range(len(heads))]
    adaptive, *ap = [per_class(sorted_keys(state), seen, GZSL) for state in states]
    mean = np.divide(taken, present, out=np.full(len(seen), np.nan), where=present > 0)
    f1 = np.divide(2 * hits, named + present, out=np.full(hits.shape, np.nan), where=present > 0)
    return PatchCounts(
        tried,
        np.stack(ap),
        adaptive,
        best_of(np.stack(ap), tried, present),
        best_of(f1[1:], tried, present),
        labels_named(inputs),
        2 * hits.sum(1) / (named.sum(1) + present.sum()),
        mean,
        present,
        seen,
        len(places),
    )


@dataclass(frozen=True)
class Piece:
    """What some images leave: a MetricState for each head, the adaptive one's patches where a
    category is present [C], how often [C]; how often it is among the K best of images with a
    positive [H, C], and present there [H, C].
    """

    states: list[MetricState]
    taken: np.ndarray
    present: np.ndarray
    named: np.ndarray
    hits: np.ndarray

    def save(self, path: Path) -> None:
        """Writes an .npz, whole or not at all."""
        arrays = {
            f"{place}.{field.name}": getattr(state, field.name)
            for place, state in enumerate(self.states)
            for field in fields(MetricState)
        }
        with whole_file(path) as temporary, temporary.open("wb") as file:
            sums = {name: getattr(self, name) for name in SUMS}
            np.savez(file, **sums, **arrays)


def load_piece(path: Path, heads: int) -> Piece:
    """Raises UserError if the file is damaged."""
    again = f"remove {path.parent} and run the same command again"
    names = {f"{place}.{name}": kind for place in range(heads) for name, kind in ARRAYS.items()}
    arrays = read_npz(path, again, names | SUMS)
    states = [
        MetricState(*(arrays[f"{place}.{field.name}"] for field in fields(MetricState)))
        for place in range(heads)
    ]
    for state in states:
        check_state(state, path, again)
    return Piece(states, *(arrays[name] for name in SUMS))


def count_all(inputs: Inputs, heads: list[Head], places: np.ndarray) -> Iterator[Piece]:
    """Counts the images in pieces of whole batches; those that an interrupted run has left in <out>
    are read.
    """
    config = inputs.config
    images = -(-PIECE_IMAGES // config.batch) * config.batch
    folder = unfinished(
        Path(config.out), pieces_of(STEM), hash_of([made_from(inputs), images, config.batch])
    )
    progress = Progress("fixed numbers of patches", len(places))
    for start in range(0, len(places), images):
        some, path = places[start : start + images], folder / f"{start // images:06}.npz"
        if path.exists():
            progress.skip(len(some))
        else:
            count(inputs, heads, some, progress).save(path)
        yield load_piece(path, len(heads))
    progress.close()


@torch.no_grad()
def count(inputs: Inputs, heads: list[Head], places: np.ndarray, progress: Progress) -> Piece:
    """Scores some images with every head; the first is the adaptive one."""
    ours, vocabulary, config = inputs.ours, inputs.vocabulary, inputs.config
    seen = np.arange(len(vocabulary)) < vocabulary.seen_count
    states: list[list[MetricState]] = [[] for _ in heads]
    taken, present = np.zeros(len(vocabulary), np.int64), np.zeros(len(vocabulary), np.int64)
    named, hits = np.zeros((len(heads), len(vocabulary))), np.zeros((len(heads), len(vocabulary)))
    for batch in inputs.photos.batches(places, ours.size, config.batch, config.loader_workers):
        patches, global_ = ours.model.tower(ours.pixels(batch.images))
        tiling, labels = ours.model.tiling(len(patches), ours.graph, patches), batch.labels.numpy()
        for place, head in enumerate(heads):
            found, counts = head.scores(patches, global_, ours.graph, tiling)
            scores = found.float().cpu().numpy()
            states[place].append(measure(scores, labels, seen, (1,)))
            among = in_best(scores, labels_named(inputs)) * (labels == 1).any(1, keepdims=True)
            named[place] += among.sum(0)
            hits[place] += (among * (labels == 1)).sum(0)
            if place == 0:
                assert counts is not None  # the adaptive head has an ISR
                taken += np.where(labels == 1, counts.cpu().numpy(), 0).sum(0)
        present += (labels == 1).sum(0)
        progress.update(len(labels))
    return Piece([merge(some) for some in states], taken, present, named, hits)


def labels_named(inputs: Inputs) -> int:
    """K of F1@K: the first of `topk`, or all categories where there are fewer."""
    return min(inputs.config.topk[0], len(inputs.vocabulary))


def in_best(scores: np.ndarray, k: int) -> np.ndarray:
    """Which scores [b, C] are among the k best of their image, float [b, C]: 1, or what ties at the
    last place share, as F1@K has it (c2srt/evaluation/topk.py).
    """
    boundary = best(scores, k)[:, :1]
    above, tied = scores > boundary, scores == boundary
    return above + tied * ((k - above.sum(1)) / tied.sum(1))[:, None]


def fixed(head: Head, k: int) -> Head:
    """The same head, parameters shared, whose ISR takes exactly the k best patches."""
    twin = copy.copy(head)
    twin.config = copy.copy(head.config)
    twin.config.threshold, twin.config.max_patches = NEVER, k
    return twin


def best_of(values: np.ndarray, tried: list[int], positives: np.ndarray) -> np.ndarray:
    """The k [C] of the greatest AP, or F1, [T, C], the smallest of equals; 0 for categories with
    few positives or one value at every k.
    """
    told = (positives >= POSITIVES) & ~np.isnan(values).any(0)
    told[told] = values[:, told].max(0) > values[:, told].min(0)
    return np.where(told, np.array(tried)[np.argmax(np.nan_to_num(values), 0)], 0)
