"""`c2srt bench evaluation`: exact mAP and F1@K at the size of Open Images' test split; torchmetrics
and a loop beside it.

Streaming: scores come in blocks of images, and making them does not count. The loop over categories
works on whole arrays in memory (5 GB). torchmetrics cannot hold that many (8 bytes a label alone,
and copies), so it is compared on all images and `compared` categories spread over the vocabulary.
Sides that are compared have the same arrays. Nothing is scaled up.

Shapes: N images, C categories, c of them compared.
"""

import logging
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from itertools import repeat
from pathlib import Path

import numpy as np
import torch

from c2srt.backbone.clip import load_clip
from c2srt.backbone.config import ClipConfig
from c2srt.bench.config import Config
from c2srt.bench.sizes import LOSS, neighbour_table
from c2srt.errors import UserError
from c2srt.evaluation.dense import COUNT_IMAGES, Thresholds, thresholds_of
from c2srt.evaluation.metric_state import (
    GZSL,
    LABEL_SETS,
    MetricState,
    drained,
    measure,
    merge,
    verified_state,
)
from c2srt.evaluation.protocols import f1_at_k, lesa, per_class, sorted_keys
from c2srt.model.config import ModelConfig
from c2srt.model.graph import Graph
from c2srt.model.network import C2SRT
from c2srt.profiling import Side, Stopwatch, device_of

log = logging.getLogger(__name__)

TOPK, BLOCK, AT_ONCE = (10, 20), 256, 1 << 24
POSITIVE = 1_105_052 / 1_667_399
"""Share of Open Images' verified test labels that are positive."""
WIDTH, STEP = 64, 2.0**-21
"""Scores are products of small whole numbers, the same in any block, and lie in (0, 1), where
torchmetrics takes no sigmoid.
"""
EQUAL, EQUAL_SINGLE = 1e-9, 1e-3


class Split:
    """A test split of random scores and verified labels, made a block at a time."""

    def __init__(self, config: Config) -> None:
        random = np.random.default_rng(config.seed)
        self.threads = config.threads
        self.buffers: dict[tuple[int, type], np.ndarray] = {}
        self.count, self.categories = config.images, config.categories + config.unseen
        self.images, self.text = (
            random.integers(-127, 128, shape).astype(np.float32)
            for shape in ((self.count, WIDTH), (WIDTH, self.categories))
        )
        self.seen = np.arange(self.categories) < config.categories
        often = 1 / (
            20 + random.permutation(self.categories)
        )  # a few categories have most labels, and some none
        drawn = [
            random.integers(0, self.count, 2 * config.labels),
            random.choice(self.categories, 2 * config.labels, p=often / often.sum()),
        ]
        pairs = np.unique(drawn[0] * self.categories + drawn[1])
        pairs = np.sort(random.choice(pairs, min(config.labels, len(pairs)), replace=False))
        self.image, self.category = np.divmod(pairs, self.categories)
        self.label = np.where(random.random(len(pairs)) < POSITIVE, 1, -1).astype(np.int8)

    def buffer(self, images: int, kind: type) -> np.ndarray:
        """[images, C] for `scores` or `fill_labels`; always the same one, as its memory shall not
        count as evaluation's.
        """
        if (images, kind) not in self.buffers:
            self.buffers[images, kind] = np.empty((images, self.categories), kind)
        return self.buffers[images, kind]

    def scores(
        self, start: int, columns: np.ndarray | slice = slice(None), out: np.ndarray | None = None
    ) -> np.ndarray:
        """Of the images from `start` on: [len(out) or all, columns]. On one thread: idle ones of a
        product would go on spinning for a while, beside what is timed after it.
        """
        rows, text = (
            self.images[start:][: None if out is None else len(out)],
            np.ascontiguousarray(self.text[:, columns]),
        )
        scores = (
            np.empty((len(rows), text.shape[1]), np.float32) if out is None else out[: len(rows)]
        )
        torch.set_num_threads(1)
        torch.mm(torch.from_numpy(rows), torch.from_numpy(text), out=torch.from_numpy(scores))
        torch.set_num_threads(self.threads)
        scores *= STEP
        scores += np.float32(0.5)
        return scores

    def fill_labels(self, start: int, out: np.ndarray) -> np.ndarray:
        """Of the images from `start` on, at most len(out) of them."""
        out = out[: self.count - start]
        out.fill(0)
        here = slice(*np.searchsorted(self.image, (start, start + len(out))))
        out[self.image[here] - start, self.category[here]] = self.label[here]
        return out

    def labels_of(self, columns: np.ndarray) -> np.ndarray:
        """int8 [N, c]."""
        place = np.full(self.categories, -1)
        place[columns] = np.arange(len(columns))
        chosen = place[self.category] >= 0
        labels = np.zeros((self.count, len(columns)), np.int8)
        labels[self.image[chosen], place[self.category[chosen]]] = self.label[chosen]
        return labels


def evaluation(config: Config) -> list[Side]:
    """Verified and dense AP on the compared categories, both on the whole set, and what evaluation
    adds to a forward pass.
    """
    split = Split(config)
    columns = np.unique(np.linspace(0, split.categories - 1, config.compared).astype(int))
    scores, labels = split.scores(0, columns), split.labels_of(columns)
    preds = torch.from_numpy(scores)
    verified = torch.from_numpy(np.where(labels == 0, -1, labels == 1).astype(np.int64))
    size, whole = f"{split.count:,} × {len(columns):,}", f"{split.count:,} × {split.categories:,}"
    pool = ThreadPoolExecutor(config.threads)
    check(scores, labels, preds, verified, pool)
    ours = partial(verified_precision, scores, labels, pool)
    theirs = partial(torchmetrics_precision, preds)
    everything = (
        split.scores(0),
        split.fill_labels(0, np.empty((split.count, split.categories), np.int8)),
    )
    return [
        Side(f"verified, {size}: torchmetrics", partial(theirs, verified, -1), baseline=True),
        Side(
            f"verified, {size}: torchmetrics without its checks",
            partial(theirs, verified, -1, False),
        ),
        Side(f"verified, {size}: ours", ours, numpy=True),
        Side(
            f"verified, {whole}: a sort per category",
            partial(loop, *everything, True),
            baseline=True,
            numpy=True,
        ),
        Side(
            f"verified, {whole}: ours", partial(verified_precision, *everything, pool), numpy=True
        ),
        Side(
            f"dense, {size}: torchmetrics",
            partial(theirs, (verified == 1).long(), None),
            baseline=True,
        ),
        Side(f"dense, {size}: ours", partial(dense_precision, scores, labels, pool), numpy=True),
        *whole_sides(split, whole, pool),
        *shares(config, split),
    ]


def whole_sides(split: Split, whole: str, pool: ThreadPoolExecutor) -> list[Side]:
    """Both AP on the whole set, whose size is `whole`."""
    return [
        Side(
            f"mAP and F1@{TOPK[0]}/{TOPK[1]}, {whole}",
            partial(whole_set, split, TOPK, pool),
            baseline=True,
            numpy=True,
        ),
        Side(f"mAP alone, {whole}", partial(whole_set, split, (), pool), numpy=True),
        Side(f"dense mAP, {whole}", partial(whole_dense, split, pool), numpy=True),
    ]


def check(
    scores: np.ndarray,
    labels: np.ndarray,
    preds: torch.Tensor,
    verified: torch.Tensor,
    pool: ThreadPoolExecutor,
) -> None:
    """All ways give the same. Raises UserError if not, or if the libraries to compare with are not
    installed.
    """
    try:
        from sklearn.metrics import average_precision_score
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed: this benchmark compares with it, install c2srt[test]"
        ) from error
    for known, ours, target, ignore in (
        (labels != 0, verified_precision, verified, -1),
        (np.ones_like(labels, bool), dense_precision, (verified == 1).long(), None),
    ):
        found = ours(scores, labels, pool)
        expected = [
            average_precision_score(label[some] == 1, score[some])
            if (label[some] == 1).any()
            else 0
            for score, label, some in zip(scores.T, labels.T, known.T, strict=True)
        ]
        others = {
            "scikit-learn": (expected, EQUAL),
            "a sort per category": (loop(scores, labels, ignore == -1), EQUAL),
            "torchmetrics in float32": (
                np.nan_to_num(torchmetrics_precision(preds, target, ignore).numpy()),
                EQUAL_SINGLE,
            ),
        }
        for name, (other, limit) in others.items():
            difference = np.abs(found - other).max()
            log.info(
                f"  largest difference from {name}, {len(found):,} categories: {difference:.1e}"
            )
            if difference > limit:
                raise UserError(
                    f"average precision differs from {name} by {difference}: a defect, report it"
                )


def verified_precision(
    scores: np.ndarray, labels: np.ndarray, pool: ThreadPoolExecutor
) -> np.ndarray:
    """AP [c] over verified labels, 0 without a positive, from arrays [N, c] as a stranger would
    bring them.
    """
    seen = np.ones(scores.shape[1], bool)
    return lesa(sorted_keys(part_of(scores, labels, seen, pool)), seen, GZSL)


def dense_precision(scores: np.ndarray, labels: np.ndarray, pool: ThreadPoolExecutor) -> np.ndarray:
    """AP [c] with everything not positive as negative, 0 without a positive."""
    thresholds = thresholds_of(
        part_of(scores, labels, np.ones(scores.shape[1], bool), pool), scores.shape[1]
    )
    starts = range(0, len(scores), COUNT_IMAGES)
    counts = pool.map(lambda start: thresholds.count(scores[start : start + COUNT_IMAGES]), starts)
    return np.nan_to_num(thresholds.average_precision(reduce(np.add, counts)))


def part_of(
    scores: np.ndarray, labels: np.ndarray, seen: np.ndarray, pool: ThreadPoolExecutor
) -> MetricState:
    """The state of whole arrays, some images at a time. Like the others, it does not refuse scores
    that are not finite.
    """
    rows = max(1, AT_ONCE // scores.shape[1])
    starts = range(0, len(scores), rows)
    return merge(
        list(
            pool.map(
                lambda at: verified_state(scores[at : at + rows], labels[at : at + rows], seen, at),
                starts,
            )
        )
    )


def torchmetrics_precision(
    preds: torch.Tensor, target: torch.Tensor, ignore: int | None, checked: bool = True
) -> torch.Tensor:
    from torchmetrics.functional.classification import multilabel_average_precision

    return multilabel_average_precision(
        preds, target, preds.shape[1], average=None, ignore_index=ignore, validate_args=checked
    )


def loop(scores: np.ndarray, labels: np.ndarray, verified: bool) -> np.ndarray:
    """AP [c], 0 without a positive: each category's column by itself, sorted, ties grouped."""
    result = np.zeros(scores.shape[1])
    for category in range(len(result)):
        known = labels[:, category] != 0 if verified else slice(None)
        positive, score = labels[known, category] == 1, scores[known, category]
        order = np.argsort(-score)
        last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))[: len(order)]
        hits = np.cumsum(positive[order])[last]
        if len(hits) and hits[-1]:
            result[category] = (np.diff(hits, prepend=0) * hits / (last + 1)).sum() / hits[-1]
    return result


def whole_set(split: Split, topk: tuple[int, ...], pool: ThreadPoolExecutor) -> Stopwatch:
    """per_class and lesa mAP and F1@K of both label sets; scores and labels come in blocks, one a
    thread.
    """
    watch = Stopwatch()
    states = stream(split, topk, pool, watch)
    with watch:
        state = drained(states)
        keys = sorted_keys(state)
        for label_set in LABEL_SETS:
            (
                np.nanmean(per_class(keys, split.seen, label_set)),
                np.nanmean(lesa(keys, split.seen, label_set)),
            )
            f1_at_k(state, label_set, topk)
    return watch


def whole_dense(split: Split, pool: ThreadPoolExecutor) -> Stopwatch:
    """dense mAP: one look at blocks of scores for the positives, another to count."""
    watch = Stopwatch()
    states = stream(split, (), pool, watch)
    with watch:
        thresholds: Thresholds = thresholds_of(drained(states), split.categories)
        at_least = np.zeros(len(thresholds.score), np.int64)
    buffer = split.buffer(COUNT_IMAGES * split.threads, np.float32)
    for start in range(0, split.count, len(buffer)):
        scores = split.scores(start, out=buffer)
        with watch:
            for counts in pool.map(thresholds.count, np.array_split(scores, split.threads)):
                at_least += counts
    with watch:
        np.nanmean(thresholds.average_precision(at_least))
    return watch


def stream(
    split: Split, topk: tuple[int, ...], pool: ThreadPoolExecutor, watch: Stopwatch
) -> list[MetricState]:
    """Measures blocks of BLOCK images. All threads make the scores, as a model would: a core that
    slept meanwhile comes late.
    """
    states: list[MetricState] = []
    buffers = split.buffer(COUNT_IMAGES, np.float32), split.buffer(COUNT_IMAGES, np.int8)
    for start in range(0, split.count, len(buffers[0])):
        labels = split.fill_labels(start, buffers[1])
        scores, blocks = (
            buffers[0][: len(labels)],
            [slice(first, first + BLOCK) for first in range(0, len(labels), BLOCK)],
        )

        def score(block: slice, start: int = start, scores: np.ndarray = scores) -> None:
            split.scores(start + block.start, out=scores[block])

        list(pool.map(score, blocks))
        with watch:
            states += pool.map(
                measure,
                [scores[block] for block in blocks],
                [labels[block] for block in blocks],
                repeat(split.seen),
                repeat(topk),
                repeat(start),
            )
    return states


def shares(config: Config, split: Split) -> list[Side]:
    """What evaluation adds to the forward pass of a batch: "faster" says how many times less, one
    over it is the share.
    """
    clip = load_clip(ClipConfig(config.clip, "random"))
    torch.manual_seed(config.seed)
    text = torch.nn.functional.normalize(torch.randn(split.categories, clip.width), dim=-1)
    of_unseen = torch.randint(0, config.categories, (config.unseen, config.neighbours))
    model = ModelConfig(
        layers=config.layers,
        heads=config.heads,
        neighbours=config.neighbours,
        tile_mib=config.tile_mib,
    )
    graph = Graph(text, torch.cat([neighbour_table(config), of_unseen]))
    device, batch = device_of(config.device), config.batch
    student = C2SRT(clip, model, LOSS, graph, config.categories).eval().to(device)
    images = torch.randint(
        0, 256, (batch, 3, clip.image_size, clip.image_size), dtype=torch.uint8, device=device
    )
    scores = split.scores(0, out=np.empty((batch, split.categories), np.float32))
    labels = split.fill_labels(0, np.empty(scores.shape, np.int8))
    written = Path(tempfile.mkdtemp(prefix="c2srt-evaluation-")) / "scores.npy"
    name = f"forward of {Path(config.clip).stem} and head, batch {batch}"
    return [
        Side(name, partial(forward, student, images), batch, baseline=True),
        Side(
            "measuring its scores",
            partial(measure, scores, labels, split.seen, TOPK),
            batch,
            numpy=True,
        ),
        Side("writing its scores (dense)", partial(np.save, written, scores), batch, numpy=True),
    ]


@torch.no_grad()
def forward(student: C2SRT, images: torch.Tensor) -> np.ndarray:
    return student.scores(images)[0].float().cpu().numpy()
