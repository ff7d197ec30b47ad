"""The head as the paper's text reads, image by image: the slow twin that the tiled head is tested
and timed against.

Sort, cumulate and gather for ISR (algorithm 1); FFN_in on the concatenation (eq. 6); PyG's
GATv2Conv for eq. 19-22. This is the only file that imports torch_geometric. It runs on the tiled
head's own parameters.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch_geometric.nn import GATv2Conv

from c2srt.model.config import Pooling
from c2srt.model.graph import Graph
from c2srt.model.head import Head
from c2srt.model.isr import compute_dtype, softmax_dtype
from c2srt.model.ist import NEGATIVE_SLOPE, with_self_loops


def literal_scores(
    head: Head, patches: Tensor, global_: Tensor, graph: Graph
) -> tuple[Tensor, Tensor | None]:
    """Scores [B, C] and patch counts [B, C] (None without ISR) of patches [B, P, D] and global
    features [B, D].
    """
    compute = compute_dtype(patches.dtype)
    tensors = {name: parameter.to(compute) for name, parameter in head.named_parameters()}
    images = [
        image_scores(head, tensors, p, g, graph) for p, g in zip(patches, global_, strict=True)
    ]
    scores, counts = zip(*images, strict=True)
    return torch.stack(scores), torch.stack(counts) if head.config.isr else None


def image_scores(
    head: Head, tensors: dict[str, Tensor], patches: Tensor, global_: Tensor, graph: Graph
) -> tuple[Tensor, Tensor | None]:
    """One image: patches [P, D], global_ [D] -> scores [C], counts [C] or None."""
    text = graph.text.to(next(iter(tensors.values()), patches).dtype)
    patches, global_ = patches.to(text.dtype), global_.to(text.dtype)
    image, counts = global_.expand_as(text), None
    if head.config.isr:
        local, counts = local_features(head, patches, text)
        image = (local + image) / 2
    if head.config.ist:
        image = gat_layers(head, tensors, input_features(head, tensors, image, text), graph)
    wide = softmax_dtype(image.dtype)
    return head.config.score_scale * F.cosine_similarity(
        image.to(wide), text.to(wide), eps=1e-12
    ), counts


def local_features(head: Head, patches: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Algorithm 1 for all categories: f_L [C, D] and the number of patches taken [C]."""
    config = head.config
    with torch.no_grad():
        similarity = F.normalize(patches, dim=-1) @ text.T
        scores = (head.isr_scale * similarity.T.to(softmax_dtype(similarity.dtype))).softmax(-1)
        ordered, index = scores.sort(-1, descending=True)
        enough = (ordered.cumsum(-1) >= config.enough).int()
        first = torch.where(enough.any(-1), enough.argmax(-1) + 1, scores.shape[-1])
        counts = first.clamp(max=config.max_patches)
    rows = []
    for category in range(len(text)):
        chosen = index[category, : counts[category]]
        weights = (
            ordered[category, : counts[category]]
            if config.pooling == Pooling.WEIGHTED
            else torch.ones_like(chosen, dtype=ordered.dtype)
        )
        rows.append((weights / weights.sum()).to(patches.dtype) @ patches[chosen])
    return torch.stack(rows), counts


def input_features(head: Head, tensors: dict[str, Tensor], image: Tensor, text: Tensor) -> Tensor:
    """Eq. 6 on the concatenation [C, 2D]."""
    both = torch.cat([image, text], -1)
    h = F.linear(
        both, torch.cat([tensors["input_image"], tensors["input_text"]], 1), tensors["input_bias"]
    )
    for weight, bias in zip(
        tensors.get("hidden_weight", ()), tensors.get("hidden_bias", ()), strict=True
    ):
        deeper = F.linear(F.gelu(h), weight, bias)
        h = h + deeper if head.config.residual else deeper
    return h


def gat_layers(head: Head, tensors: dict[str, Tensor], h: Tensor, graph: Graph) -> Tensor:
    """Eq. 19-23 over an edge list."""
    config, edges = head.config, edge_list(head, graph)
    for layer in range(config.layers):
        aggregated = convolution(head, tensors, layer, h, edges).view(len(h), config.heads, -1)
        mixed = [
            F.linear(aggregated[:, m], tensors["output"][layer, m]) for m in range(config.heads)
        ]
        out = F.elu(torch.cat(mixed, -1))
        h = h + out if config.residual else out
    return h


def edge_list(head: Head, graph: Graph) -> Tensor:
    """[2, E]: source and target of every present neighbour."""
    table = with_self_loops(graph.table, head.config.self_loops)
    targets, slots = (table >= 0).nonzero(as_tuple=True)
    return torch.stack([table[targets, slots], targets])


def convolution(
    head: Head, tensors: dict[str, Tensor], layer: int, h: Tensor, edges: Tensor
) -> Tensor:
    """Eq. 19-22 by PyG: h [C, D] -> Σ_j α_ij s_j [C, D]."""
    heads, width = head.config.heads, h.shape[1]
    conv = GATv2Conv(
        width,
        width // heads,
        heads,
        negative_slope=NEGATIVE_SLOPE,
        add_self_loops=False,
        bias=False,
    )
    weights = {
        "lin_l.weight": tensors["source"][layer],
        "lin_r.weight": tensors["target"][layer],
        "att": tensors["attention"][layer][None],
    }
    return functional_call(conv, weights, (h, edges))
