"""Inter-category semantic transfer: GATv2 over a fixed-degree neighbour table (eq. 6-10, 19-23),
forward and backward.

Shapes: N nodes (a node is one category of one image, the images of a tile one after the other), m
nodes of a chunk, D width, H heads, K neighbours (self-loop included), d = D / H.

One layer, for every node i and head h, over the neighbours j of i:
    s_j = W_source x_j,  t_i = W_target x_i         (per-head slices of D × D projections, once a
                                                     node)
    e_ij = a_h · LeakyReLU(t_i + s_j),  α_i = softmax_j(e_ij)      (eq. 20, 22)
    x'_i = [x_i +] ‖_h ELU(W_out^h Σ_j α_ij s_j)    (eq. 23; W_out commutes with the sum)
This is PyG's GATv2Conv (lin_l = W_source, lin_r = W_target) followed by W_out, σ and the optional
residual.

The gradient is written out by hand, chunk by chunk: no tensor of [N, K, D] exists, and only s, t, α
and the layer's input are kept for it. On a GPU the fused kernels of `kernels` take over between the
projections.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from c2srt.model import kernels
from c2srt.model.chunks import Buffers, Chunk
from c2srt.model.isr import softmax_dtype

NEGATIVE_SLOPE = 0.2


@dataclass(frozen=True)
class Layer:
    """One layer's parameters, or the sums of their gradients: source, target [D, D], attention [H,
    d], output [H, d, d].
    """

    source: Tensor
    target: Tensor
    attention: Tensor
    output: Tensor


@dataclass(frozen=True)
class Output:
    """A layer's x' = [x +] ELU(mixed) of a chunk's nodes, not computed yet; mixed [m, D] is W_out's
    product.
    """

    chunk: Chunk
    mixed: Tensor
    inputs: "LayerInputs"
    residual: bool

    @property
    def rows(self) -> Tensor | None:
        """x [m, D], None without the residual."""
        return self.inputs.rows(self.chunk) if self.residual else None

    def values(self) -> Tensor:
        """x' [m, D]."""
        values, rows = F.elu(self.mixed), self.rows
        return values if rows is None else values.add_(rows)

    def backward(self, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        """The gradients of the rows (None without the residual) and of `mixed`, given that of
        x'.
        """
        grad_mixed = torch.ops.aten.elu_backward(gradient, 1.0, 1.0, 1.0, False, self.mixed)
        return gradient if self.residual else None, grad_mixed


class Table:
    """In-neighbours [N, K] of the nodes, as node numbers, −1 where one is missing, and what follows
    from them.
    """

    def __init__(self, neighbours: Tensor) -> None:
        self.neighbours = neighbours

    @cached_property
    def out_neighbours(self) -> tuple[Tensor, Tensor]:
        """The reversed adjacency, over which the GPU's backward gathers."""
        return kernels.reversed_adjacency(self.neighbours, len(self.neighbours))

    @cached_property
    def index(self) -> Tensor:
        """int32 [N, K]; a missing neighbour is node 0, which α mutes."""
        return self.neighbours.clamp(min=0).int()

    @cached_property
    def present(self) -> Tensor | None:
        """bool [N, K, 1], None where no neighbour is missing (a traced program cannot ask)."""
        present = (self.neighbours >= 0)[..., None]
        return present if torch.compiler.is_exporting() or not present.all() else None

    def bags(self, heads: int, chunk: slice) -> Tensor:
        """int32 [m · H, K]: the neighbours' rows among those of one head, [N · H, d]."""
        if getattr(self, "_heads", None) != heads:
            self._heads = heads
            self._bags = (
                self.index[:, None] * heads + torch.arange(heads, device=self.index.device)[:, None]
            ).int()
        return self._bags[chunk].flatten(0, 1)


class LayerInputs(Protocol):
    """What a layer reads, chunk by chunk, and where the gradients of that go: forward `sources`
    once, then `targets` and `rows` of every chunk; backward `add` of every chunk, then
    `add_sources` once. `targets` and `rows` must last from the forward to the `add` of their chunk.
    """

    @property
    def gradient(self) -> Tensor | None:
        """The rows' own gradient [N, D] after `add_sources`; None where it has gone on already."""

    def sources(self, out: Tensor) -> None:
        """Writes s [N, D]."""

    def targets(self, chunk: Chunk) -> Tensor:
        """t [m, D]."""

    def rows(self, chunk: Chunk) -> Tensor:
        """x [m, D], which the residual adds."""

    def add(self, chunk: Chunk, grad_rows: Tensor | None, grad_targets: Tensor) -> None:
        """Takes the gradients of rows(chunk) (None: there is none) and targets(chunk), whose place
        it may take.
        """

    def add_sources(self, grad_sources: Tensor, sums: Layer) -> None:
        """Takes the gradient of sources(), and adds the projections' to `sums` unless they are
        summed elsewhere.
        """


class DenseInputs:
    """A layer's input as rows [N, D] (`LayerInputs`); `kept` holds t, later its gradient, and
    `gradient` that of the rows after the backward.
    """

    def __init__(self, rows: Tensor, layer: Layer, kept: Tensor, gradient: Tensor) -> None:
        self.values, self.layer, self.kept, self.gradient = rows, layer, kept, gradient

    def sources(self, out: Tensor) -> None:
        torch.mm(self.values, self.layer.source.T, out=out)
        torch.mm(self.values, self.layer.target.T, out=self.kept)

    def targets(self, chunk: Chunk) -> Tensor:
        return self.kept[chunk.flat]

    def rows(self, chunk: Chunk) -> Tensor:
        return self.values[chunk.flat]

    def add(self, chunk: Chunk, grad_rows: Tensor | None, grad_targets: Tensor) -> None:
        """The targets' gradient takes their place."""
        self.kept[chunk.flat] = grad_targets
        self.gradient[chunk.flat] = 0 if grad_rows is None else grad_rows

    def add_sources(self, grad_sources: Tensor, sums: Layer) -> None:
        """Whole products are faster than those of chunks."""
        for name, grad in (("target", self.kept), ("source", grad_sources)):
            self.gradient.addmm_(grad, getattr(self.layer, name))
            add_product(getattr(sums, name), grad.T, self.values)


Upstream = Callable[[Output], tuple[Tensor | None, Tensor]]


@dataclass
class Transfer:
    """One GATv2 layer over the chunks of a tile; keeps s [N, D] and, where no kernel makes it anew,
    α [N, K, H] between forward and backward.

    `inputs` are DenseInputs, or pool.PooledInputs for the first layer. A node without a neighbour
    aggregates zeros. Everything that is kept lies in `buffers`: the backward of a tile must come
    before the next tile's forward.
    """

    number: int
    layer: Layer
    inputs: LayerInputs
    table: Table
    chunks: list[Chunk]
    residual: bool
    buffers: Buffers

    def forward(self, finish: Callable[[Output], None]) -> None:
        """Calls finish(x') for every chunk."""
        like, (nodes, slots) = self.layer.attention, self.table.neighbours.shape
        self.sources = self.buffers.take(f"sources {self.number}", (nodes, like.numel()), like)
        self.inputs.sources(self.sources)
        if len(self.chunks) == 1:
            aggregated, self.alpha = self.attend(self.chunks[0])
            if self.fused:
                del self.alpha  # the way back makes it again
            return finish(self.output(self.chunks[0], aggregated))
        self.alpha = self.buffers.take(
            f"alpha {self.number}", (nodes, slots, len(like)), like, softmax_dtype(like.dtype)
        )
        for chunk in self.chunks:
            aggregated, self.alpha[chunk.flat] = self.attend(chunk)
            finish(self.output(chunk, aggregated))

    def attend(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Σ_j α_ij s_j [m, D] and α [m, K, H]."""
        targets, attention = self.inputs.targets(chunk), self.layer.attention
        if self.fused:
            return kernels.attention_forward(
                targets, self.sources, attention, self.table.neighbours[chunk.flat]
            )
        logits = attention_logits(self.gather(chunk), targets, attention)
        present = self.table.present
        if present is not None:
            logits.masked_fill_(~present[chunk.flat], torch.finfo(logits.dtype).min)
        alpha = logits.softmax(1)
        if present is not None:
            alpha *= present[chunk.flat]
        return self.gather_sum(alpha, chunk), alpha

    def gather(self, chunk: Chunk) -> Tensor:
        """s_j of every neighbour of a chunk [m, K, H, d], in a buffer."""
        index, heads = self.table.index[chunk.flat], len(self.layer.attention)
        out = self.buffers.take("gathered", (index.numel(), self.sources.shape[1]), self.sources)
        torch.index_select(self.sources, 0, index.flatten(), out=out)
        return out.view(*index.shape, heads, -1)

    def gather_sum(self, alpha: Tensor, chunk: Chunk) -> Tensor:
        """Σ_j α_ij s_j without a gathered copy: α [m, K, H] -> [m, D]."""
        heads = alpha.shape[2]
        weights = alpha.transpose(1, 2).to(self.sources.dtype).reshape(-1, alpha.shape[1])
        rows = self.sources.view(-1, self.sources.shape[1] // heads)
        bags = self.table.bags(heads, chunk.flat)
        return F.embedding_bag(bags, rows, per_sample_weights=weights, mode="sum").view(
            alpha.shape[0], -1
        )

    @property
    def fused(self) -> bool:
        """Whether the GPU kernels can take this layer: they work on all nodes at once."""
        return len(self.chunks) == 1 and kernels.supported(
            self.sources, len(self.layer.attention), self.table.neighbours.shape[1]
        )

    def output(self, chunk: Chunk, aggregated: Tensor) -> Output:
        """x' of a chunk: W_out, σ and the residual."""
        mixed = mix(aggregated, self.layer.output)
        return Output(chunk, mixed, self.inputs, self.residual)

    def unfinished(
        self, chunk: Chunk, aggregated: Tensor, upstream: Upstream, sums: Layer
    ) -> tuple[Tensor | None, Tensor]:
        """The way back: the gradient of the residual's rows, if there is one, and of the aggregate
        [m, D]; adds that of W_out.
        """
        grad_rows, grad_mixed = upstream(self.output(chunk, aggregated))
        add_mix_gradient(sums.output, grad_mixed, aggregated)
        return grad_rows, mix(grad_mixed, self.layer.output.transpose(1, 2))

    def backward(self, upstream: Upstream, sums: Layer) -> None:
        """upstream(x') gives the gradients of what a chunk's x' is made of, as `Output.backward`;
        adds the parameters' gradients to `sums` (float32 or wider) and the inputs' to `inputs`.
        """
        if self.fused:
            return self.fused_backward(self.chunks[0], upstream, sums)
        sources = self.sources
        grad_sources = self.buffers.take(
            "grad_sources", sources.shape, sources, softmax_dtype(sources.dtype)
        ).zero_()
        for chunk in self.chunks:
            alpha = self.alpha[chunk.flat]
            aggregated = self.gather_sum(alpha, chunk)
            grad_rows, grad_aggregated = self.unfinished(chunk, aggregated, upstream, sums)
            del aggregated
            grad_targets = self.attend_backward(
                chunk, grad_aggregated, alpha, grad_sources, sums.attention
            )
            self.inputs.add(chunk, grad_rows, grad_targets)
        self.inputs.add_sources(grad_sources.to(sources.dtype), sums)

    def fused_backward(self, chunk: Chunk, upstream: Upstream, sums: Layer) -> None:
        """`backward` through the kernels: the one chunk's sources get their gradient whole, summed
        in float32 and written once. The aggregate is made again, by the kernel that made it.
        """
        attention, table = self.layer.attention, self.table
        targets = self.inputs.targets(chunk)
        aggregated, alpha = kernels.attention_forward(
            targets, self.sources, attention, table.neighbours
        )
        grad_rows, grad_aggregated = self.unfinished(chunk, aggregated, upstream, sums)
        del aggregated
        grad_targets, grad_sources, grad_attention = kernels.attention_backward(
            grad_aggregated,
            targets,
            self.sources,
            attention,
            alpha,
            table.neighbours,
            table.out_neighbours,
        )
        sums.attention.add_(grad_attention)
        self.inputs.add(chunk, grad_rows, grad_targets)
        self.inputs.add_sources(grad_sources, sums)

    def attend_backward(
        self,
        chunk: Chunk,
        upstream: Tensor,
        alpha: Tensor,
        grad_sources: Tensor,
        grad_attention: Tensor,
    ) -> Tensor:
        """The gradient of targets [m, D], given that of the aggregate; adds to grad_sources [N, D]
        and grad_attention [H, d].

        Rows are added in the order of the table: deterministic on a CPU, and on a GPU through
        index_put_, which sorts.
        """
        attention, targets = self.layer.attention, self.inputs.targets(chunk)
        upstream = split_heads(upstream, attention)[:, None]
        gathered = self.gather(chunk)
        product = self.buffers.take("product", gathered.shape, gathered)
        torch.mul(gathered, upstream, out=product)
        grad_alpha = product.sum(-1, dtype=alpha.dtype)
        grad_logits = alpha * (grad_alpha - (alpha * grad_alpha).sum(1, keepdim=True))
        before = gathered.add_(split_heads(targets, attention)[:, None])
        grad_before = product.copy_(grad_logits[..., None])
        torch.ops.aten.leaky_relu_backward.grad_input(
            grad_before, before, NEGATIVE_SLOPE, False, grad_input=grad_before
        )
        grad_attention += before.mul_(grad_before).sum((0, 1), dtype=grad_attention.dtype)
        grad_targets = grad_before.mul_(attention).sum(1).flatten(1)
        grad_gathered = grad_before.addcmul_(alpha.to(gathered.dtype)[..., None], upstream)
        index, rows = (
            self.table.index[chunk.flat].flatten().long(),
            grad_gathered.view(-1, self.sources.shape[1]),
        )
        add_rows(grad_sources, index, rows.to(grad_sources.dtype))
        return grad_targets


def attention_logits(sources: Tensor, targets: Tensor, attention: Tensor) -> Tensor:
    """e_ij = a · LeakyReLU(t_i + s_j) [m, K, H] in float32 or wider; the gathered sources [m, K, H,
    d] are overwritten.
    """
    before = sources.add_(split_heads(targets, attention)[:, None])
    return (
        F.leaky_relu_(before, NEGATIVE_SLOPE)
        .mul_(attention)
        .sum(-1, dtype=softmax_dtype(sources.dtype))
    )


def add_rows(total: Tensor, index: Tensor, rows: Tensor) -> None:
    """total[index[i]] += rows[i], duplicates included, in a fixed order."""
    if total.is_cuda:
        total.index_put_((index,), rows, accumulate=True)
    else:
        total.index_add_(0, index, rows)


def mix(aggregated: Tensor, output: Tensor) -> Tensor:
    """W_out^h on every head's slice: [m, D] with output [H, d, d] -> [m, D]."""
    mixed = torch.empty_like(aggregated)
    by_head = [split_heads(rows, output).transpose(0, 1) for rows in (aggregated, mixed)]
    torch.bmm(by_head[0], output.transpose(1, 2), out=by_head[1])
    return mixed


def add_mix_gradient(total: Tensor, grad_mixed: Tensor, aggregated: Tensor) -> None:
    """Adds the gradient of output [H, d, d] in `mix`."""
    by_head = split_heads(grad_mixed, total).permute(1, 2, 0)
    total += torch.bmm(by_head, split_heads(aggregated, total).transpose(0, 1))


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, the sum in total's type."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def split_heads(rows: Tensor, like: Tensor) -> Tensor:
    """[m, D] -> [m, H, d] with H = len(like)."""
    return rows.unflatten(-1, (len(like), -1))


def with_self_loops(table: Tensor, self_loops: bool) -> Tensor:
    """[C, K] neighbour table -> [C, K + 1] with the category itself in front, or unchanged."""
    if not self_loops:
        return table
    return torch.cat([torch.arange(len(table), device=table.device)[:, None], table], 1)
