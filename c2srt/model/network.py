"""C²SRT as one module: student ViT, head, loss; and what any student shares. It knows nothing of
training, data or ranks.

Shapes: B images, P patches, C categories (the S seen ones first), D width.
"""

import copy
from typing import ClassVar

import torch
from torch import Tensor, nn

from c2srt.backbone.clip import Clip
from c2srt.backbone.tower import normalise
from c2srt.errors import UserError
from c2srt.hints import Command
from c2srt.model.config import DistillationReduction, Form, LossConfig, ModelConfig
from c2srt.model.graph import Graph
from c2srt.model.head import Head
from c2srt.model.loss import distillation_loss, ranking_loss
from c2srt.model.student import Student
from c2srt.model.text_gradient import text_gradient
from c2srt.model.tiling import Shape, Tiling, budget_bytes, choose_tiling, chunk_limit


class Network(nn.Module, Student):
    """What every `Student` shares: the tower that learns, the teacher, the categories. `graph`
    holds all C of them; training uses its first `seen_count`, which hear only each other.

    Raises UserError when text features and CLIP disagree in width, or a seen category hears an
    unseen one.
    """

    tunes_prompts: ClassVar[bool] = False
    head: nn.Module
    tile_bytes: int | None = None
    """What the head may hold at a time, where a training has settled it."""

    def __init__(
        self,
        clip: Clip,
        config: ModelConfig,
        loss: LossConfig,
        graph: Graph,
        seen_count: int,
        online_teacher: bool = False,
    ) -> None:
        super().__init__()
        check_graph(graph, clip.width, seen_count, self.neighbours_read(config))
        self.config, self.loss, self.seen_count, self.patch_count = (
            config,
            loss,
            seen_count,
            clip.patches,
        )
        self.tower = copy.deepcopy(clip.tower)
        self.tower.freeze(config.trainable_blocks)
        self._graph = Graph(graph.text, graph.table[:, : config.neighbours])
        self._mean, self._std = torch.tensor(clip.mean), torch.tensor(clip.std)
        self._teacher = [clip.images] if online_teacher else []

    @staticmethod
    def neighbours_read(config: ModelConfig) -> int:
        """How many neighbours of a category the network reads."""
        return 0

    def pixels(self, images: Tensor) -> Tensor:
        """Normalised pixels in the tower's type; the constants stay float32 whatever the engine
        casts.
        """
        if self._mean.device != images.device:  # once: a copy to a GPU makes the host wait
            self._mean, self._std = self._mean.to(images.device), self._std.to(images.device)
        return normalise(images, self._mean, self._std).to(self.tower.dtype)

    def teacher_features(self, images: Tensor) -> Tensor:
        """The frozen CLIP's raw global feature [B, D] of the same pixels, in float32."""
        return self._teacher[0].to(images.device).global_features(images)

    def budget(self, device: torch.device) -> int:
        """What the head may hold at a time, in bytes: `tile_bytes`, or by `model.tile_mib`."""
        return self.tile_bytes or budget_bytes(self.config, device)

    def graph_on(self, device: torch.device) -> Graph:
        self._graph = self._graph.to(device)
        return self._graph

    def parameter_depth(self, name: str) -> int:
        """Distance of a parameter from the output, for layer decay: 0 for the head, the tower's own
        as in `ImageTower.depth`.
        """
        return 0 if name.startswith("head.") else self.tower.depth(name.removeprefix("tower."))


class C2SRT(Network):
    """C²SRT: the student whose head is ISR and IST."""

    tunes_prompts = True
    head: Head

    def __init__(
        self,
        clip: Clip,
        config: ModelConfig,
        loss: LossConfig,
        graph: Graph,
        seen_count: int,
        online_teacher: bool = False,
    ) -> None:
        super().__init__(clip, config, loss, graph, seen_count, online_teacher)
        self.head = Head(clip.width, config, clip.logit_scale)

    @staticmethod
    def neighbours_read(config: ModelConfig) -> int:
        return config.neighbours if config.ist else 0

    def forward(
        self, images: Tensor, labels: Tensor, teacher: Tensor | None, weights: Tensor
    ) -> dict[str, Tensor]:
        """As `Student.forward` (eq. 12); for the record ranking, distillation, drift (mean |f_G −
        f_G^CLIP| per dimension), mean_patches, capped_share.
        """
        pixels = self.pixels(images)
        patches, global_ = self.tower(pixels)
        teacher = self.teacher_features(images) if self._teacher else teacher
        ranking, statistics = self.ranking(patches, global_, labels, weights)
        values = {
            "ranking": ranking,
            "mean_patches": statistics[0],
            "capped_share": statistics[1],
            "loss": ranking,
        }
        if teacher is not None:
            distances = distillation_loss(global_, teacher, self.loss)
            distillation = (weights * distances).mean()
            mean = self.loss.distillation_reduction == DistillationReduction.MEAN
            values |= {
                "distillation": distillation,
                "drift": distances.detach().mean() / (1 if mean else global_.shape[1]),
                "loss": ranking + self.loss.distillation * distillation,
            }
        elif self.loss.distillation > 0:
            raise no_teacher()
        return values

    def ranking(
        self, patches: Tensor, global_: Tensor, labels: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weighted mean ranking loss over the seen categories, and the ISR's [mean patches, capped
        share].
        """
        graph = self.graph_on(patches.device).first(self.seen_count)
        if self.config.form == Form.TILED:
            return self.head(
                patches,
                global_,
                labels,
                weights,
                graph,
                self.loss,
                self.tiling(len(patches), graph, patches),
            )
        from c2srt.model.literal import (
            literal_scores,
        )  # PyG takes seconds to import and only this form needs it

        scores, counts = literal_scores(self.head, patches, global_, graph)
        statistics = (
            torch.zeros(2)
            if counts is None
            else torch.stack(
                [counts.float().mean(), (counts >= self.config.max_patches).float().mean()]
            )
        )
        return (weights * ranking_loss(scores, labels, self.loss)).mean(), statistics.to(
            patches.device
        )

    @torch.no_grad()
    def scores(self, images: Tensor, graph: Graph | None = None) -> tuple[Tensor, Tensor | None]:
        """As `Student.scores`."""
        patches, global_ = self.tower(self.pixels(images))
        graph = graph.to(patches.device) if graph is not None else self.graph_on(patches.device)
        if self.config.form == Form.LITERAL:
            from c2srt.model.literal import literal_scores

            return literal_scores(self.head, patches, global_, graph)
        return self.head.scores(
            patches, global_, graph, self.tiling(patches.shape[0], graph, patches)
        )

    @torch.no_grad()
    def text_gradient(
        self, images: Tensor, labels: Tensor, weights: Tensor, text: Tensor, loss: LossConfig
    ) -> tuple[Tensor, Tensor]:
        """As `Student.text_gradient`."""
        graph = Graph(text, self.graph_on(text.device).table[: len(text)])
        patches, global_ = self.tower(self.pixels(images))
        tiling = self.tiling(len(patches), graph, patches)
        return text_gradient(self.head, patches, global_, labels, weights, graph, loss, tiling)

    def tiling(self, images: int, graph: Graph, features: Tensor) -> Tiling:
        """The tiling for one micro-batch; a program that is traced for any number of images
        has one tile.
        """
        if torch.compiler.is_exporting():
            return Tiling(
                images, len(graph.text), 0, self.config.ist and self.config.input_layers == 1
            )
        shape = self.shape(len(graph.text), features.device, features.dtype)
        return choose_tiling(shape, self.config, images, self.budget(features.device))

    def shape(self, categories: int, device: torch.device, dtype: torch.dtype) -> Shape:
        """The head's sizes; float16 computes in float32."""
        width = self._graph.text.shape[1]
        itemsize = 2 if dtype == torch.bfloat16 else max(4, dtype.itemsize)
        return Shape(categories, self.patch_count, width, itemsize, chunk_limit(width, device))

    def training_summary(
        self, images: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[str, dict[str, float]]:
        """As `Student.training_summary`: the tiles, their bytes and FLOPs."""
        shape = self.shape(self.seen_count, device, dtype)
        tiling = choose_tiling(shape, self.config, images, self.budget(device))
        return tiling.describe(shape, self.config), tiling.numbers(shape, self.config)


def no_teacher() -> UserError:
    return UserError(
        "loss.distillation > 0 needs a teacher: build the cache with"
        f" `{Command('teacher')}`, or set teacher=online"
    )


def check_graph(graph: Graph, width: int, seen_count: int, neighbours: int) -> None:
    """Refuses text or a neighbour table that does not fit, before any work."""
    if not len(graph.text) or not seen_count:
        raise UserError(
            f"there are {len(graph.text)} categories, {seen_count} of them seen: nothing to score;"
            " see the vocabulary"
        )
    if not graph.text.isfinite().all():
        raise UserError(f"the text features hold NaN or infinity: run `{Command('text')}` again")
    if graph.text.shape[1] != width:
        raise UserError(
            f"the text features are {graph.text.shape[1]} wide and this CLIP's images {width}: "
            f"run `{Command('text')}` for this clip"
        )
    if len(graph.table) != len(graph.text):
        raise UserError(
            f"the relation graph has {len(graph.table)} categories, the text features"
            f" {len(graph.text)}: run `{Command('relations')}`"
        )
    if graph.table.shape[1] < neighbours:
        raise UserError(
            f"model.neighbours={neighbours} but the relation graph keeps"
            f" {graph.table.shape[1]}: run `{Command('relations', neighbours=neighbours)}`"
        )
    if (
        graph.table.numel()
        and int(graph.table.max()) >= seen_count
        or graph.table.numel()
        and int(graph.table.min()) < -1
    ):
        raise UserError(
            f"the relation graph names a source outside the {seen_count} seen categories: "
            f"run `{Command('relations')}` again"
        )
