"""What can be evaluated on shards: an exported model, CLIP zero-shot, and the class prior; one
`scores(images)` for all. Each of them may score unseen categories by their neighbours' scores.

Shapes: b images, S pixels a side, C categories, D joint width.
"""

from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from c2srt.backbone.clip import load_clip
from c2srt.backbone.config import ClipConfig
from c2srt.errors import UserError
from c2srt.evaluation.config import CLIP, COSINE, PRIOR, SIGMOID, SOFTMAX, SPARC
from c2srt.export.files import identity as export_identity
from c2srt.export.read import load_export
from c2srt.files import hash_of
from c2srt.hints import Command
from c2srt.relations.untold import by_neighbours, graph_identity, of_unseen
from c2srt.shard_reader import ShardReader
from c2srt.shards import Shard, ShardIndex
from c2srt.text import load_text, text_identity
from c2srt.vocabulary import Vocabulary, check_same_vocabulary


@dataclass(frozen=True)
class Subject:
    """What to evaluate, cheap to send to workers: `checkpoint` is an export folder, "clip", "prior"
    or "sparc".

    clip, text and form: CLIP zero-shot; prior [C]: the class prior; neighbours and relations: how
    many neighbours of this graph's folder are heard; identity: `identity` of it when the command
    started.
    """

    checkpoint: str
    vocabulary: Vocabulary
    clip: ClipConfig = field(default_factory=ClipConfig)
    text: str = ""
    form: str = COSINE
    prior: tuple[float, ...] = ()
    neighbours: int = 0
    relations: str = ""
    identity: str = ""


class ModelScorer:
    """An exported model. `size` is S."""

    def __init__(self, subject: Subject, device: torch.device) -> None:
        exported = load_export(Path(subject.checkpoint))
        check_same_vocabulary(
            subject.vocabulary, exported.vocabulary.hash, subject.checkpoint, Command("train")
        )
        exported.to(device)
        self.exported, self.size, self.device = exported, exported.clip.image_size, device

    def scores(self, images: Tensor) -> tuple[np.ndarray, tuple[int, int, int] | None]:
        """uint8 [b, 3, S, S] -> scores float32 [b, C]; ISR's (patches selected, pairs at the cap,
        pairs) or None.
        """
        scores, counts = self.exported.scores(images.to(self.device))
        isr = None
        if counts is not None:
            isr = (
                int(counts.sum()),
                int((counts >= self.exported.model.config.max_patches).sum()),
                counts.numel(),
            )
        return scores.float().cpu().numpy(), isr


class ClipScorer:
    """The frozen CLIP, without training or relations. `form` cosine: that of the global image
    feature and the text features; softmax: over all C categories at CLIP's own scale (100 for the
    first ones), as its logarithm, which ranks alike and cannot underflow. It ranks an image's
    categories as the cosine does, but not the images of a category. sigmoid: each category's own
    probability, at SigLIP's scale and bias, as its logarithm; it ranks all as the cosine does.
    Raises UserError where the CLIP has no bias.
    """

    def __init__(self, subject: Subject, device: torch.device) -> None:
        clip = load_clip(subject.clip)
        self.form, self.scale, self.bias = subject.form, clip.logit_scale, clip.logit_bias or 0.0
        if self.form == SIGMOID and clip.logit_bias is None:
            raise UserError(
                "clip_scores=sigmoid needs a CLIP that was trained so, such as SigLIP;"
                f" {subject.clip.name} was not: take clip_scores=softmax"
            )
        self.text = load_text(Path(subject.text), subject.vocabulary, clip.hash).to(device)
        self.images, self.size, self.device = clip.images.to(device), clip.image_size, device

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """uint8 [b, 3, S, S] -> global features [b, D], L2-normalised."""
        return F.normalize(self.images.global_features(images.to(self.device)), dim=-1)

    def scores(self, images: Tensor) -> tuple[np.ndarray, None]:
        """As `ModelScorer.scores`."""
        scores = self.features(images) @ self.text.T
        if self.form == SOFTMAX:
            scores = (self.scale * scores).log_softmax(1)
        elif self.form == SIGMOID:
            scores = F.logsigmoid(self.scale * scores + self.bias)
        return scores.cpu().numpy(), None


class PriorScorer:
    """Every image gets the same scores: how often each category was positive in training
    (`prior_scores`).
    """

    size = 8  # pixels are not looked at

    def __init__(self, subject: Subject, device: torch.device) -> None:
        self.prior = np.array(subject.prior, np.float32)

    def scores(self, images: Tensor) -> tuple[np.ndarray, None]:
        """As `ModelScorer.scores`."""
        return np.tile(self.prior, (len(images), 1)), None


class HearingScorer:
    """Another one's scores; unseen categories by those of the neighbours that they hear."""

    def __init__(self, inner: ModelScorer | ClipScorer | PriorScorer, table: np.ndarray) -> None:
        self.inner, self.table, self.size = inner, table, inner.size

    def scores(self, images: Tensor) -> tuple[np.ndarray, tuple[int, int, int] | None]:
        """As `ModelScorer.scores`."""
        scores, isr = self.inner.scores(images)
        return by_neighbours(scores, self.table), isr


Scorer = ModelScorer | ClipScorer | PriorScorer | HearingScorer


def load_scorer(subject: Subject, device: torch.device) -> Scorer:
    """Loads what `subject` names; of SPARC the CLIP. Raises UserError if it is absent, broken or of
    another vocabulary.
    """
    kinds: dict[str, type[ModelScorer | ClipScorer | PriorScorer]] = {
        CLIP: ClipScorer,
        SPARC: ClipScorer,
        PRIOR: PriorScorer,
    }
    inner = kinds.get(subject.checkpoint, ModelScorer)(subject, device)
    table = heard_by_unseen(subject)
    return inner if table is None else HearingScorer(inner, table)


def heard_by_unseen(subject: Subject) -> np.ndarray | None:
    """The neighbours int64 [C, K] whose scores unseen categories get, ABSENT for all others; None
    where each has its own.
    """
    if not subject.neighbours or subject.checkpoint == SPARC:
        return None
    return of_unseen(Path(subject.relations), subject.vocabulary, subject.neighbours)


def identity(subject: Subject, index: ShardIndex) -> str:
    """Changes when the scores of the same images would: the results carry it. Raises UserError if a
    file is absent.
    """
    if not subject.neighbours:
        return own_identity(subject, index)
    graph = graph_identity(Path(subject.relations), subject.vocabulary, subject.neighbours)
    return hash_of([own_identity(subject, index), subject.neighbours, graph])


def own_identity(subject: Subject, index: ShardIndex) -> str:
    """As `identity`, without neighbours."""
    if subject.checkpoint == PRIOR:
        return hash_of([shard.sha256 for shard in index.split("train")])
    if subject.checkpoint in (CLIP, SPARC):
        clip = load_clip(subject.clip).hash
        return hash_of(
            [
                clip,
                text_identity(Path(subject.text), subject.vocabulary, clip),
                *[subject.form] * (subject.form != COSINE),
                *[SPARC] * (subject.checkpoint == SPARC),
            ]
        )
    return export_identity(Path(subject.checkpoint))


def class_counts(index: ShardIndex, shard: Shard, vocabulary: Vocabulary) -> np.ndarray:
    """How many images of one shard are positive for each category: int64 [C]."""
    reader, counts = ShardReader(index.folder, shard), np.zeros(len(vocabulary), np.int64)
    for labels in reader.all_labels():
        columns = [vocabulary.index[mid] for mid in labels.positive if mid in vocabulary.index]
        counts[columns] += 1
    return counts


def prior_of(counts: np.ndarray, images: int, vocabulary: Vocabulary) -> np.ndarray:
    """Share of training images that are positive for each category, float32 [C]; unseen categories,
    never trained on, 0.
    """
    prior = (counts / images).astype(np.float32)
    prior[vocabulary.seen_count :] = 0
    return prior


def prior_scores(index: ShardIndex, vocabulary: Vocabulary, split: str = "train") -> np.ndarray:
    """The class prior [C] of a training split: the same ranking for every image, the floor under
    any GZSL F1.
    """
    shards = index.split(split)
    counts = reduce(np.add, (class_counts(index, shard, vocabulary) for shard in shards))
    return prior_of(counts, sum(shard.count for shard in shards), vocabulary)
