"""`c2srt bench head|gat|isr|ignore`: the head and its parts against the literal forms."""

from functools import partial

import torch
from torch import Tensor

from c2srt.bench.config import Config
from c2srt.bench.sizes import LOSS, Inputs, make_inputs, ones
from c2srt.model.chunks import Buffers, Chunk, cut
from c2srt.model.config import LossConfig
from c2srt.model.isr import assignment
from c2srt.model.ist import DenseInputs, Layer, Output, Table, Transfer, Upstream, with_self_loops
from c2srt.model.loss import ranking_loss
from c2srt.model.tile import LAYER_NAMES, inner_backward, write_rows
from c2srt.model.tiling import chunk_limit
from c2srt.profiling import DTYPES, Side, device_of


def head(config: Config) -> list[Side]:
    """Head and ranking loss, forward and backward: the literal head one image at a time, ours in
    batches of two sizes.
    """
    small, large = make_inputs(config, config.batch), make_inputs(config, config.large_batch)
    one = make_inputs(config, 1)
    literal = Side(
        "literal: torch + PyG",
        partial(literal_step, one, labels(one, config)),
        1,
        gradient_bytes(one),
        baseline=True,
    )
    return [
        literal,
        *[
            Side(
                f"tiled, batch {len(inputs.patches)}",
                partial(tiled_step, inputs, labels(inputs, config), LOSS),
                len(inputs.patches),
                gradient_bytes(inputs),
                inputs is small,
            )
            for inputs in (small, large)
        ],
    ]


def ignore(config: Config) -> list[Side]:
    """The head when only verified categories count, against the head over all of them."""
    dense, sparse = make_inputs(config, config.batch), make_inputs(config, config.large_batch)
    ways = (
        ("every category", dense, LOSS),
        ("verified categories' k-hop subgraph", sparse, LossConfig(unverified="ignore")),
    )
    return [
        Side(
            f"{name}, batch {len(inputs.patches)}",
            partial(tiled_step, inputs, labels(inputs, config), loss),
            len(inputs.patches),
            gradient_bytes(inputs),
            baseline=inputs is dense,
        )
        for name, inputs, loss in ways
    ]


def gat(config: Config) -> list[Side]:
    """GATv2 on rows [C, D], forward and backward: what GATv2Conv computes, and the whole layer with
    W_out, σ and residual. Ours has the buffers of the tile before.
    """
    inputs = make_inputs(config, 1, layers=1)
    rows = torch.randn(
        config.categories,
        config.width,
        device=device_of(config.device),
        dtype=DTYPES[config.precision],
    )
    upstream, sides = torch.randn_like(rows), []
    for name, kind, literal in (
        ("GATv2Conv", Convolution, literal_convolution),
        ("layer", Transfer, literal_layer),
    ):

        def ours(kind: type[Transfer] = kind) -> partial:
            return partial(
                table_layer,
                kind,
                inputs,
                rows,
                upstream,
                Table(with_self_loops(inputs.graph.table, True)),
                Buffers(),
            )

        theirs = partial(literal, inputs, rows.clone().requires_grad_(), upstream)
        sides += [
            Side(f"{name}: PyG", theirs, 1, 2 * rows.nbytes, baseline=True),
            Side(f"{name}: neighbour table", ours(), 1, 2 * rows.nbytes, fresh=ours),
        ]
    return sides


class Aggregate(Output):
    """What the attention alone gives."""

    def values(self) -> Tensor:
        return self.mixed

    def backward(self, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


class Convolution(Transfer):
    """A layer without W_out, σ and residual: what PyG's GATv2Conv computes."""

    def output(self, chunk: Chunk, aggregated: Tensor) -> Aggregate:
        return Aggregate(chunk, aggregated, self.inputs, False)

    def unfinished(
        self, chunk: Chunk, alpha: Tensor, upstream: Upstream, sums: Layer
    ) -> tuple[Tensor | None, Tensor]:
        return upstream(self.output(chunk, alpha))


def isr(config: Config) -> list[Side]:
    """Which patches speak of a category, and their mean [C, D]: both sides start from the same
    features.
    """
    inputs = make_inputs(config, 1)
    patches, text = inputs.patches.detach(), inputs.graph.text.to(DTYPES[config.precision])
    pooled = config.categories * config.width * DTYPES[config.precision].itemsize
    return [
        Side(
            "sort + gather",
            partial(sort_and_gather, patches, text, inputs),
            1,
            pooled,
            baseline=True,
        ),
        Side("threshold + product", partial(select_and_multiply, patches, text, inputs), 1, pooled),
    ]


def labels(inputs: Inputs, config: Config) -> Tensor:
    return inputs.labels(config.verified, config.present)


def gradient_bytes(inputs: Inputs) -> int:
    """Gradients of the features, which every form must return."""
    return inputs.patches.nbytes + inputs.global_.nbytes


def clear(inputs: Inputs) -> None:
    for tensor in (inputs.patches, inputs.global_, *inputs.head.parameters()):
        tensor.grad = None


def tiled_step(inputs: Inputs, labels: Tensor, loss: LossConfig) -> None:
    clear(inputs)
    inputs.head(
        inputs.patches, inputs.global_, labels, ones(inputs), inputs.graph, loss, inputs.tiling
    )[0].backward()


def literal_step(inputs: Inputs, labels: Tensor) -> None:
    from c2srt.model.literal import literal_scores  # PyG takes seconds to import

    clear(inputs)
    scores, _ = literal_scores(inputs.head, inputs.patches, inputs.global_, inputs.graph)
    ranking_loss(scores, labels, LOSS).mean().backward()


def literal_layer(inputs: Inputs, rows: Tensor, upstream: Tensor) -> None:
    from c2srt.model.literal import gat_layers

    clear(inputs)
    rows.grad = None
    gat_layers(inputs.head, dict(inputs.head.named_parameters()), rows, inputs.graph).backward(
        upstream
    )


def literal_convolution(inputs: Inputs, rows: Tensor, upstream: Tensor) -> None:
    from c2srt.model.literal import convolution, edge_list

    clear(inputs)
    rows.grad = None
    convolution(
        inputs.head,
        dict(inputs.head.named_parameters()),
        0,
        rows,
        edge_list(inputs.head, inputs.graph),
    ).backward(upstream)


def table_layer(
    kind: type[Transfer],
    inputs: Inputs,
    rows: Tensor,
    upstream: Tensor,
    table: Table,
    buffers: Buffers,
) -> Tensor:
    with torch.no_grad():
        layer = Layer(*[getattr(inputs.head, name)[0] for name in LAYER_NAMES])
        sums = Layer(
            *[torch.zeros_like(getattr(layer, name), dtype=torch.float32) for name in LAYER_NAMES]
        )
        out, kept, gradient = (
            buffers.take(name, rows.shape, rows) for name in ("out", "kept", "gradient")
        )
        chunks = cut(1, len(rows), chunk_limit(rows.shape[1], rows.device) or len(rows))
        step = kind(
            0, layer, DenseInputs(rows, layer, kept, gradient), table, chunks, True, buffers
        )

        step.forward(partial(write_rows, out))
        step.backward(partial(inner_backward, upstream), sums)
    return gradient


@torch.no_grad()
def sort_and_gather(patches: Tensor, text: Tensor, inputs: Inputs) -> Tensor:
    """Algorithm 1 as printed, for all categories at once: sort, cumulate, gather the N best
    patches, mean over those taken.
    """
    config = inputs.head.config
    unit = torch.nn.functional.normalize(patches[0], dim=-1)
    ordered, index = (inputs.head.isr_scale * (text @ unit.T)).softmax(-1).sort(-1, descending=True)
    most = min(config.max_patches, len(unit))
    taken = ((ordered.cumsum(-1) - ordered) < config.enough)[:, :most].to(patches.dtype)
    gathered = patches[0][index[:, :most]]
    return (gathered * taken[..., None]).sum(1) / taken.sum(1, keepdim=True)


@torch.no_grad()
def select_and_multiply(patches: Tensor, text: Tensor, inputs: Inputs) -> Tensor:
    config = inputs.head.config
    chunk = chunk_limit(patches.shape[2], patches.device) or len(text)
    out = patches.new_empty(len(text), patches.shape[2])
    for start in range(0, len(text), chunk):
        chosen = assignment(
            patches,
            text[start : start + chunk],
            inputs.head.isr_scale,
            config.enough,
            config.max_patches,
            False,
        )
        torch.mm(chosen[0], patches[0], out=out[start : start + chunk])
    return out
