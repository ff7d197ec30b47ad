"""CLIP, MKT and ours behind one face: scores of whole images, and one category's score as a
function of the pixels.

Shapes: B images, S pixels a side, C categories, D joint width, P patches.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c2srt.backbone.clip import Clip
from c2srt.backbone.ensemble import embed
from c2srt.backbone.tower import BlockTower
from c2srt.export.read import Exported
from c2srt.model.baselines.mkt import Mkt
from c2srt.model.graph import Graph
from c2srt.model.network import C2SRT


class Viewer(nn.Module):
    """A model that is compared: `name` as printed, `size` S of its input, `tower`, `grid`
    (rows, columns) of patches.
    """

    def __init__(self, name: str, clip: Clip, tower: BlockTower, device: torch.device) -> None:
        super().__init__()
        self.name, self.size, self.grid, self.tower = name, clip.image_size, clip.grid, tower
        self.device, self.images = device, clip.images
        self.to(device).eval()

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] -> what `score_of` takes."""
        return self.images.pixels(images.to(self.device))

    def score_of(self, pixels: Tensor, column: int) -> Tensor:
        """The score [B] of one category, differentiable."""
        raise NotImplementedError

    def scores(self, images: Tensor) -> np.ndarray:
        """uint8 [B, 3, S, S] -> scores float32 [B, C]."""
        raise NotImplementedError

    def scores_with(self, images: Tensor, words: list[str]) -> np.ndarray:
        """The same with n further words behind the vocabulary: float32 [B, C + n]."""
        raise NotImplementedError


class ClipViewer(Viewer):
    """The frozen CLIP: the cosine of its global feature and the text features [C, D], which
    `templates` made.
    """

    def __init__(
        self, clip: Clip, text: Tensor, templates: list[str], device: torch.device
    ) -> None:
        super().__init__("CLIP", clip, clip.tower, device)
        self.text, self.clip, self.templates = text.to(device), clip, templates

    def score_of(self, pixels: Tensor, column: int) -> Tensor:
        return F.normalize(self.tower.global_features(pixels), dim=-1) @ self.text[column]

    @torch.no_grad()
    def scores(self, images: Tensor) -> np.ndarray:
        return self.scores_with(images, [])

    @torch.no_grad()
    def scores_with(self, images: Tensor, words: list[str]) -> np.ndarray:
        new = embed(self.clip, words, self.templates).to(self.text) if words else self.text[:0]
        found = F.normalize(self.images.global_features(images.to(self.device)), dim=-1)
        return (found @ torch.cat([self.text, new]).T).cpu().numpy()


class ExportViewer(Viewer):
    """A trained model."""

    def __init__(self, name: str, exported: Exported, device: torch.device) -> None:
        super().__init__(name, exported.clip, exported.model.tower, device)
        exported.to(device)
        self.exported, self.model = exported, exported.model
        self.graph = exported.graph.to(device)

    def scores(self, images: Tensor) -> np.ndarray:
        return self.exported.scores(images.to(self.device))[0].float().cpu().numpy()

    def scores_with(self, images: Tensor, words: list[str]) -> np.ndarray:
        """The words hear the seen categories of most similar text."""
        text, table = self.exported.by_similarity(words)
        graph = self.exported.graph
        wider = Graph(torch.cat([graph.text, text]), torch.cat([graph.table, table]))
        return self.exported.scores(images.to(self.device), wider)[0].float().cpu().numpy()


class MktViewer(ExportViewer):
    """MKT, whose scores are normalised over all categories."""

    model: Mkt

    def __init__(self, exported: Exported, device: torch.device) -> None:
        super().__init__("MKT", exported, device)

    def score_of(self, pixels: Tensor, column: int) -> Tensor:
        features = self.model.tower(pixels)
        return self.model.head(
            *features, self.graph.text.to(features[0].dtype), self.model.budget(self.device)
        )[0][:, column]


class OurViewer(ExportViewer):
    """C²SRT. One category's score needs only the categories that it hears, so the head's literal
    form runs on those.
    """

    model: C2SRT

    def __init__(self, exported: Exported, device: torch.device) -> None:
        super().__init__("C²SRT (ours)", exported, device)

    def score_of(self, pixels: Tensor, column: int) -> Tensor:
        from c2srt.model.literal import literal_scores  # PyG takes seconds to import

        config = self.model.config
        graph, _ = subgraph(self.graph, [column], config.layers if config.ist else 0)
        patches, global_ = self.model.tower(pixels)
        return literal_scores(self.model.head, patches, global_, graph)[0][:, 0]


def ranks_of(scores: np.ndarray) -> np.ndarray:
    """Scores [C] -> ranks [C], 1 the best; equal scores in the order of the columns."""
    ranks = np.empty(len(scores), np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return ranks


def subgraph(graph: Graph, columns: list[int], hops: int) -> tuple[Graph, list[int]]:
    """The graph of `columns` (first, in order) and all within `hops` against the edges, and
    which categories those are.

    What is further away is absent from the table; after `hops` layers nothing of that reaches
    `columns`.
    """
    kept, rim = dict.fromkeys(columns), list(columns)
    for _ in range(hops):
        rim = [
            neighbour
            for neighbour in dict.fromkeys(graph.table[rim].flatten().tolist())
            if neighbour >= 0 and neighbour not in kept
        ]
        kept |= dict.fromkeys(rim)
    categories = list(kept)
    place = torch.full(
        (len(graph.text) + 1,), -1, dtype=torch.long, device=graph.table.device
    )  # the last one for −1
    place[categories] = torch.arange(len(categories), device=place.device)
    return Graph(graph.text[categories], place[graph.table[categories]]), categories
