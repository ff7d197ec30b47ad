"""Figures that only the miniature can give: by group of unseen categories, and against everything
that is true.

The verbs report ZSL and GZSL over verified labels, as on real data. Here the same scores are also
split into unseen names that their words explain (`words`: pairs) and those they don't (`opaque`:
events), and compared with the generator's truth.

Shapes: N images, C categories.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from torch import Tensor

from c2srt.backbone.clip import Clip
from c2srt.demo.words import World
from c2srt.errors import UserError
from c2srt.evaluation.metric_state import GZSL, ZSL, measure
from c2srt.evaluation.protocols import f1_at_k, per_class, sorted_keys
from c2srt.export.read import load_export
from c2srt.files import sha256_of_file
from c2srt.hints import Command
from c2srt.opened import read_npz
from c2srt.shard_reader import SampleLabels, ShardReader
from c2srt.shards import load_index
from c2srt.vocabulary import load_vocabulary

AT_ONCE = 100


@dataclass(frozen=True)
class Split:
    """One packed split of a world with its truth: `images` uint8 [N, 3, S, S], `labels` int8 [N, C]
    in −1/0/1, `truth` bool [N, C].
    """

    world: World
    ids: list[str]
    images: Tensor
    labels: np.ndarray
    truth: np.ndarray


def seen(world: World) -> np.ndarray:
    """bool [C]"""
    return np.array([category.seen for category in world.categories])


def of_kind(world: World, kind: str) -> np.ndarray:
    """bool [C]: the unseen categories of a kind."""
    return np.array([category.kind == kind and not category.seen for category in world.categories])


def load_split(world: World, shards: Path, raw: Path, split: str) -> Split:
    """Reads a split from its shards, and its truth from the generator. Raises UserError if the two
    are of different worlds.
    """
    vocabulary, index = load_vocabulary(shards), load_index(shards)
    names = {"mids": ("U", 1), f"{split}_ids": ("U", 1), f"{split}_labels": ("b", 2)}
    truths = read_npz(raw / "truth.npz", f"remove {raw} and run `{Command('demo')}` again", names)
    if truths["mids"].tolist() != list(vocabulary.mids):
        raise UserError(
            f"{shards} was packed from another miniature than {raw}: delete it and run"
            f" `{Command('demo')}` again"
        )
    row = {name: position for position, name in enumerate(truths[f"{split}_ids"].tolist())}
    every = truths[f"{split}_labels"]
    ids, images, labels = [], [], []
    for reader in (ShardReader(shards, shard) for shard in index.split(split)):
        for sample, name in enumerate(reader.ids):
            ids.append(name)
            images.append(
                torch.from_numpy(simplejpeg.decode_jpeg(reader.jpeg(sample))).permute(2, 0, 1)
            )
            labels.append(label_row(reader.labels(sample), vocabulary.index))
    return Split(
        world, ids, torch.stack(images), np.stack(labels), every[[row[name] for name in ids]]
    )


def load_labels(shards: Path, split: str) -> np.ndarray:
    """The labels of a packed split alone, int8 [N, C]."""
    vocabulary, index = load_vocabulary(shards), load_index(shards)
    rows = [
        label_row(labels, vocabulary.index)
        for shard in index.split(split)
        for labels in ShardReader(shards, shard).all_labels()
    ]
    return np.stack(rows)


def label_row(labels: SampleLabels, index: dict[str, int]) -> np.ndarray:
    """A sample's MIDs -> int8 [C]."""
    row = np.zeros(len(index), np.int8)
    row[[index[mid] for mid in labels.negative]] = -1
    row[[index[mid] for mid in labels.positive]] = 1
    return row


def clip_scores(clip: Clip, text: Tensor, images: Tensor) -> np.ndarray:
    """Zero-shot cosine of CLIP's global feature with text features [C, D]: float32 [N, C]."""
    return (clip_features(clip, images) @ text.T).numpy()


@torch.no_grad()
def clip_features(clip: Clip, images: Tensor) -> Tensor:
    """CLIP's global features of uint8 [N, 3, S, S]: float32 [N, D], L2-normalised."""
    features = [clip.images.global_features(some) for some in images.split(AT_ONCE)]
    return F.normalize(torch.cat(features), dim=-1)


def model_scores(folder: Path, images: Tensor) -> np.ndarray:
    """Scores of an exported model: float32 [N, C]."""
    exported = load_export(folder)
    return torch.cat([exported.scores(some)[0] for some in images.split(AT_ONCE)]).numpy()


def neighbour_scores(world: World, scores: np.ndarray, table: Tensor) -> np.ndarray:
    """Events scored by the mean of their K neighbours' standardised CLIP scores, everything else by
    its own.

    No training: it shows how much the oracle graph knows that the names do not say. Of an event's
    four neighbours three are the companions that define it, the fourth is another event. table [C,
    K], −1 absent.
    """
    standard = (scores - scores.mean(0)) / scores.std(0)
    result = standard.copy()
    for column, category in enumerate(world.categories):
        neighbours = [n for n in table[column].tolist() if n >= 0]
        if category.kind == "event" and neighbours:
            result[:, column] = standard[:, neighbours].mean(1)
    return result


def prior_scores(labels: np.ndarray, images: int) -> np.ndarray:
    """How often each category is a training positive, the same for every image: float32 [images,
    C]. Unseen ones: 0.
    """
    return np.tile((labels == 1).mean(0).astype(np.float32), (images, 1))


def figures(scores: np.ndarray, split: Split, topk: tuple[int, ...]) -> dict[str, float]:
    """Every figure of one row, as fractions: mAP is `per_class` over verified labels, `true …` over
    the generator's truth.
    """
    state = measure(scores, split.labels, seen(split.world), topk)
    values = mean_precisions(split.world, state, "")
    for label_set in (ZSL, GZSL):
        for name, value in f1_at_k(state, label_set, topk).items():
            values[f"{label_set.upper()} {name}"] = value["F1"]
    every = np.where(split.truth, 1, -1).astype(np.int8)
    true = measure(scores, every, seen(split.world), topk)
    return values | mean_precisions(split.world, true, "true ")


def mean_precisions(world: World, state, prefix: str) -> dict[str, float]:
    keys = sorted_keys(state)
    unseen, all_ = (per_class(keys, seen(world), which) for which in (ZSL, GZSL))
    groups = {
        "ZSL": unseen,
        "words": unseen[of_kind(world, "pair")],
        "opaque": unseen[of_kind(world, "event")],
        "GZSL": all_,
    }
    return {f"{prefix}{name} mAP": float(np.nanmean(values)) for name, values in groups.items()}


def identity(folder: Path) -> str:
    """Changes when an exported model changes."""
    return sha256_of_file(folder / "model.safetensors")[:16]
