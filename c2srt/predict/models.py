"""What ranks words for pictures: an exported model, or a CLIP as it is.

Both have `size` (pixels of a side) and `grid` (rows and columns of patches), and in common: `asked`
labels become a `Graph` and columns of it, `scores` ranks by them, `tower` gives features.

Shapes: B images, S pixels a side, P patches, C categories of a graph, D joint width, K neighbours.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from c2srt.backbone.clip import Clip
from c2srt.backbone.ensemble import embed
from c2srt.errors import UserError
from c2srt.export.read import Exported
from c2srt.hints import Command
from c2srt.model.config import ModelConfig
from c2srt.model.graph import Graph
from c2srt.model.network import C2SRT
from c2srt.predict.config import AUTO, COSINE, PROBABILITY
from c2srt.predict.labels import Label
from c2srt.predict.patches import Pooling
from c2srt.relations.baselines import similar_neighbours
from c2srt.relations.config import WordsConfig
from c2srt.relations.words import NewWords


@dataclass(frozen=True)
class Asked:
    """Labels as they were given, the graph that scores them (None: the model's own), and their
    columns in it.
    """

    names: list[str]
    graph: Graph | None = None
    columns: Tensor | slice = field(default_factory=lambda: slice(None))
    ids: list[str] = field(default_factory=list)

    @property
    def id_of(self) -> dict[str, str]:
        """What the caller calls each label; {} for the model's vocabulary."""
        return dict(zip(self.names, self.ids, strict=False))


class Model(Protocol):
    """What ranks."""

    clip: Clip

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Where the image tower and the head compute, and in which numbers."""
        ...

    def asked(self, labels: list[Label] | None) -> Asked:
        """What `scores` needs to know of the labels (None: the model's vocabulary). Raises
        UserError.
        """
        ...

    def scores(self, images: Tensor, asked: Asked) -> Tensor:
        """uint8 [B, 3, S, S] on the model's device -> float32 [B, labels] on the CPU."""
        ...

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] -> what `tower` takes."""
        ...

    def tower(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Raw patch features [B, P, D] and global features [B, D], differentiable."""
        ...

    def thresholds(self, asked: Asked) -> np.ndarray | None:
        """The score from which naming each label pays, float32 [labels], if that is known."""
        ...

    def common(self) -> Tensor | None:
        """The mean text feature [D] of the vocabulary, if there is one."""
        ...

    def pooling(self) -> Pooling | None:
        """How its ISR pools; None without one."""
        ...


class Trained:
    """An exported model; `cache` is the folder where new words are kept, unless `words` names
    another. Scores are probabilities where it has a calibration, unless `score` is cosine. Raises
    UserError if it is probability and there is none.
    """

    def __init__(
        self, exported: Exported, cache: Path, words: WordsConfig | None, score: str = AUTO
    ) -> None:
        if score == PROBABILITY and exported.calibration is None:
            raise uncalibrated(f"score={score}")
        self.exported, self.clip = exported, exported.clip
        self.calibration = None if score == COSINE else exported.calibration
        self.new_words = NewWords(
            words or WordsConfig(),
            exported.vocabulary,
            exported.graph.text,
            exported.graph.table.shape[1],
            exported.templates,
            exported.by_similarity,
            cache,
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        self.exported.to(device, dtype)

    def asked(self, labels: list[Label] | None) -> Asked:
        if labels is None:
            return Asked(list(self.exported.vocabulary.titles))
        words = [" ".join(label.name.split()) for label in labels]
        plain = [word for word, label in zip(words, labels, strict=True) if not label.prompts]
        graph, columns = self.exported.graph_for(plain, self.new_words.find)
        known = dict(zip(plain, columns.tolist(), strict=True))
        prompted = [label for label in labels if label.prompts]
        known |= {
            " ".join(label.name.split()): len(graph.text) + row
            for row, label in enumerate(prompted)
        }
        if prompted:
            text, table = self.by_prompts(prompted)
            graph = Graph(torch.cat([graph.text, text]), torch.cat([graph.table, table]))
        return Asked(
            [label.name for label in labels],
            graph,
            torch.tensor([known[word] for word in words], dtype=torch.long),
            [label.id for label in labels],
        )

    def by_prompts(self, labels: list[Label]) -> tuple[Tensor, Tensor]:
        """Text features [n, D] of labels with prompts of their own, and neighbours [n, K] by
        them (or by their names, where a language model is asked for neighbours).
        """
        text = prompt_features(self.clip, labels)
        if self.new_words.config.neighbours == "llm":
            return text, self.new_words.find([label.name for label in labels])[1]
        graph, seen = self.exported.graph, self.exported.vocabulary.seen_count
        return text, similar_neighbours(text, graph.text[:seen], graph.table.shape[1])

    def scores(self, images: Tensor, asked: Asked) -> Tensor:
        scores, _ = self.exported.scores(images, asked.graph)
        scores = scores.float().cpu()
        if self.calibration is not None:
            scores = self.calibration(scores)
        return scores[:, asked.columns]

    def thresholds(self, asked: Asked) -> np.ndarray | None:
        if self.calibration is None:
            return None
        graph = self.exported.graph if asked.graph is None else asked.graph
        return self.calibration.thresholds(len(graph.text))[asked.columns].numpy()

    def pixels(self, images: Tensor) -> Tensor:
        return self.exported.model.pixels(images)

    def tower(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.exported.model.tower(pixels)

    def common(self) -> Tensor | None:
        return self.exported.graph.text.mean(0)

    def pooling(self) -> Pooling | None:
        config: ModelConfig = self.exported.model.config
        if not isinstance(self.exported.model, C2SRT) or not config.isr:
            return None
        scale = config.isr_scale or self.clip.logit_scale
        return Pooling(scale, config.enough, config.max_patches)


class ZeroShot:
    """A CLIP without training or relations: the cosine of the global image feature and the text
    features that `templates` give.
    """

    def __init__(self, clip: Clip, templates: list[str]) -> None:
        self.clip, self.templates = clip, templates

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        self.clip.to(device)
        self.clip.tower.to(dtype)

    def asked(self, labels: list[Label] | None) -> Asked:
        if labels is None:
            raise UserError(
                "checkpoint=clip has no vocabulary of its own: give labels=… or labels_file=…"
            )
        own = {label.name: row for row, label in enumerate(labels) if not label.prompts}
        prompted = {row: label for row, label in enumerate(labels) if label.prompts}
        text = torch.empty(len(labels), self.clip.width)
        if own:
            text[list(own.values())] = embed(self.clip, list(own), self.templates)
        if prompted:
            text[list(prompted)] = prompt_features(self.clip, list(prompted.values()))
        graph = Graph(text, torch.empty(len(labels), 0, dtype=torch.long))
        ids = [label.id for label in labels]
        return Asked([label.name for label in labels], graph, torch.arange(len(labels)), ids)

    def scores(self, images: Tensor, asked: Asked) -> Tensor:
        assert asked.graph is not None, "a CLIP has no graph of its own"
        with torch.no_grad():
            _, global_ = self.tower(self.pixels(images))
        return F.normalize(global_.float(), dim=-1).cpu() @ asked.graph.text.T

    def thresholds(self, asked: Asked) -> None:
        return None

    def pixels(self, images: Tensor) -> Tensor:
        return self.clip.images.pixels(images).to(self.clip.tower.dtype)

    def tower(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.clip.tower(pixels)

    def common(self) -> Tensor | None:
        return None

    def pooling(self) -> Pooling | None:
        return None


def uncalibrated(asked: str) -> UserError:
    """Of what is asked of a model without a calibration."""
    return UserError(
        f"{asked} needs a model that `{Command('calibrate')}` wrote: this one's scores are no"
        " probabilities"
    )


def prompt_features(clip: Clip, labels: list[Label]) -> Tensor:
    """Eq. 3 over each label's own prompts: unit rows [n, D]."""
    return torch.cat([embed(clip, [label.name], list(label.prompts)) for label in labels])
