"""The inputs of the benchmarks: random features and text at the sizes of Open Images, on the
shipped relation graph.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from c2srt.bench.config import Config
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.graph import Graph
from c2srt.model.head import Head
from c2srt.model.tiling import Shape, Tiling, budget_bytes, choose_tiling, chunk_limit
from c2srt.profiling import DTYPES, device_of
from c2srt.relations.answers import llm_neighbours, shipped_answers
from c2srt.vocabulary import open_images_v4

CLIP_SCALE = 100.0
LOSS = LossConfig()


@dataclass
class Inputs:
    """What every side of a benchmark shares: a head, its graph, the tiles, patches [B, P, D] and
    global features [B, D].
    """

    head: Head
    graph: Graph
    tiling: Tiling
    patches: Tensor
    global_: Tensor

    def labels(self, verified: int, present: int) -> Tensor:
        """int8 [B, C]: `verified` random categories an image are known, the first `present` of them
        positive.
        """
        count = self.graph.text.shape[0]
        places = (
            torch.rand(len(self.patches), count, device=self.patches.device)
            .topk(verified, dim=1)
            .indices
        )
        values = torch.where(torch.arange(verified, device=places.device) < present, 1, -1)
        return torch.zeros(
            len(self.patches), count, dtype=torch.int8, device=places.device
        ).scatter_(1, places, values.to(torch.int8).expand(places.shape).contiguous())


def make_inputs(config: Config, batch: int, layers: int | None = None) -> Inputs:
    """Deterministic for a seed. The head's W_out is random: with init=clip it would start as
    zero.
    """
    device, dtype = device_of(config.device), DTYPES[config.precision]
    torch.manual_seed(config.seed)
    model = ModelConfig(
        layers=layers or config.layers,
        heads=config.heads,
        neighbours=config.neighbours,
        tile_mib=config.tile_mib,
    )
    head = Head(config.width, model, CLIP_SCALE)
    torch.nn.init.normal_(head.output, std=0.1)
    torch.nn.init.normal_(head.input_text, std=config.width**-0.5)
    text = F.normalize(torch.randn(config.categories, config.width), dim=-1)
    graph = Graph(text, neighbour_table(config)).to(device)
    patches, global_ = (
        torch.randn(batch, config.patches, config.width),
        torch.randn(batch, config.width),
    )
    shape = Shape(
        config.categories,
        config.patches,
        config.width,
        dtype.itemsize,
        chunk_limit(config.width, device),
    )
    tiling = choose_tiling(shape, model, batch, budget_bytes(model, device))
    leaves = [values.to(device, dtype).requires_grad_() for values in (patches, global_)]
    return Inputs(head.to(device, dtype), graph, tiling, *leaves)


def neighbour_table(config: Config) -> Tensor:
    """[C, K]: the seen categories of the shipped Open Images relations when the sizes are theirs,
    else a random graph.
    """
    vocabulary = open_images_v4()
    if config.categories != vocabulary.seen_count or config.neighbours > 8:
        return torch.randint(0, config.categories, (config.categories, config.neighbours))
    neighbours, _ = llm_neighbours(
        shipped_answers("relations_openimages_v4.jsonl.gz"), vocabulary, config.neighbours
    )
    return torch.from_numpy(neighbours.table[: config.categories]).long()


def ones(inputs: Inputs) -> Tensor:
    """The weights [B] of a batch of whole images."""
    return torch.ones(len(inputs.patches), device=inputs.patches.device)
