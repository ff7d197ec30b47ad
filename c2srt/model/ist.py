"""Inter-category semantic transfer: GATv2 over a fixed-degree neighbour table (eq. 6-10, 19-23),
forward and backward.

Shapes: N nodes (a node is one category of one image, the images of a tile one after the other), m
nodes of a part, D width, H heads, K neighbours (self-loop included), d = D / H.

One layer, for every node i and head h, over the neighbours j of i:
    s_j = W_source x_j,  t_i = W_target x_i         (per-head slices of D × D projections, once a
                                                     node)
    e_ij = a_h · LeakyReLU(t_i + s_j),  α_i = softmax_j(e_ij)      (eq. 20, 22)
    x'_i = [x_i +] ‖_h ELU(W_out^h Σ_j α_ij s_j)    (eq. 23; W_out commutes with the sum)
This is PyG's GATv2Conv (lin_l = W_source, lin_r = W_target) followed by W_out, σ and the optional
residual.

The gradient is written out by hand, part by part: no tensor of [N, K, D] exists, and only s, t, α
and the layer's input are kept for it. On a GPU the fused kernels of `kernels` take over between the
projections.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from c2srt.model import kernels
from c2srt.model.isr import softmax_dtype
from c2srt.model.parts import Buffers, Part

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


class Table:
    """Neighbour table `heard` [N, K] of node numbers, −1 where one is missing, and what follows
    from it.
    """

    def __init__(self, heard: Tensor) -> None:
        self.heard = heard

    @cached_property
    def hearers(self) -> tuple[Tensor, Tensor]:
        """The reversed adjacency, over which the GPU's backward gathers."""
        return kernels.reversed_adjacency(self.heard, len(self.heard))

    @cached_property
    def index(self) -> Tensor:
        """int32 [N, K]; a missing neighbour is node 0, which α mutes."""
        return self.heard.clamp(min=0).int()

    @cached_property
    def present(self) -> Tensor | None:
        """bool [N, K, 1], None where no neighbour is missing (a traced program cannot ask)."""
        present = (self.heard >= 0)[..., None]
        return present if torch.compiler.is_exporting() or not present.all() else None

    def bags(self, heads: int, part: slice) -> Tensor:
        """int32 [m · H, K]: the neighbours' rows among those of one head, [N · H, d]."""
        if getattr(self, "_heads", None) != heads:
            self._heads = heads
            self._bags = (
                self.index[:, None] * heads + torch.arange(heads, device=self.index.device)[:, None]
            ).int()
        return self._bags[part].flatten(0, 1)


class DenseInputs:
    """A layer's input as rows [N, D]; `kept` holds t, later its gradient, and `gradient` that of
    the rows after the backward.
    """

    def __init__(self, rows: Tensor, layer: Layer, kept: Tensor, gradient: Tensor) -> None:
        self.values, self.layer, self.kept, self.gradient = rows, layer, kept, gradient

    def sources(self, out: Tensor) -> None:
        torch.mm(self.values, self.layer.source.T, out=out)
        torch.mm(self.values, self.layer.target.T, out=self.kept)

    def targets(self, part: Part) -> Tensor:
        return self.kept[part.flat]

    def rows(self, part: Part) -> Tensor:
        return self.values[part.flat]

    def add(self, part: Part, grad_rows: Tensor | None, grad_targets: Tensor) -> None:
        """Takes the gradients of rows(part) (None: there is none) and targets(part), whose place it
        takes.
        """
        self.kept[part.flat] = grad_targets
        self.gradient[part.flat] = 0 if grad_rows is None else grad_rows

    def add_sources(self, grad_sources: Tensor, sums: Layer) -> None:
        """Takes the gradient of sources(), after all parts, and adds the projections' to `sums`:
        whole products are faster than those of parts.
        """
        for name, grad in (("target", self.kept), ("source", grad_sources)):
            self.gradient.addmm_(grad, getattr(self.layer, name))
            add_product(getattr(sums, name), grad.T, self.values)


@dataclass
class Transfer:
    """One GATv2 layer over the parts of a tile; keeps s [N, D] and α [N, K, H] between forward and
    backward.

    `inputs` gives sources, targets and rows and takes their gradients (DenseInputs, or
    pool.PooledInputs for the first layer); `table` [N, K] holds node numbers, −1 where a neighbour
    is missing; a node without any aggregates zeros.
    """

    number: int
    layer: Layer
    inputs: object
    table: Table
    parts: list[Part]
    residual: bool
    buffers: Buffers

    def forward(self, finish: Callable[[Part, Tensor], None]) -> None:
        """Calls finish(part, x' [m, D]) for every part."""
        like, (nodes, slots) = self.layer.attention, self.table.heard.shape
        self.sources = self.buffers.take(f"sources {self.number}", (nodes, like.numel()), like)
        self.alpha = self.buffers.take(
            f"alpha {self.number}", (nodes, slots, len(like)), like, softmax_dtype(like.dtype)
        )
        self.inputs.sources(self.sources)
        for part in self.parts:
            aggregated, self.alpha[part.flat] = self.attend(part)
            finish(part, self.finished(part, aggregated))

    def attend(self, part: Part) -> tuple[Tensor, Tensor]:
        """Σ_j α_ij s_j [m, D] and α [m, K, H]."""
        targets, attention = self.inputs.targets(part), self.layer.attention
        if self.fused:
            return kernels.attention_forward(
                targets, self.sources, attention, self.table.heard[part.flat]
            )
        logits = attention_logits(self.gather(part), targets, attention)
        present = self.table.present
        if present is not None:
            logits.masked_fill_(~present[part.flat], torch.finfo(logits.dtype).min)
        alpha = logits.softmax(1)
        if present is not None:
            alpha *= present[part.flat]
        return self.gather_sum(alpha, part), alpha

    def gather(self, part: Part) -> Tensor:
        """s_j of every neighbour of a part [m, K, H, d], in a buffer."""
        index, heads = self.table.index[part.flat], len(self.layer.attention)
        out = self.buffers.take("heard", (index.numel(), self.sources.shape[1]), self.sources)
        torch.index_select(self.sources, 0, index.flatten(), out=out)
        return out.view(*index.shape, heads, -1)

    def gather_sum(self, alpha: Tensor, part: Part) -> Tensor:
        """Σ_j α_ij s_j without a gathered copy: α [m, K, H] -> [m, D]."""
        heads = alpha.shape[2]
        weights = alpha.transpose(1, 2).to(self.sources.dtype).reshape(-1, alpha.shape[1])
        rows = self.sources.view(-1, self.sources.shape[1] // heads)
        bags = self.table.bags(heads, part.flat)
        return F.embedding_bag(bags, rows, per_sample_weights=weights, mode="sum").view(
            alpha.shape[0], -1
        )

    @property
    def fused(self) -> bool:
        """Whether the GPU kernels can take this layer: they work on all nodes at once."""
        return len(self.parts) == 1 and kernels.supported(
            self.sources, len(self.layer.attention), self.table.heard.shape[1]
        )

    def finished(self, part: Part, aggregated: Tensor) -> Tensor:
        """x' [m, D] of a part: W_out, σ and the residual."""
        return self.output(part, mix(aggregated, self.layer.output))

    def output(self, part: Part, mixed: Tensor) -> Tensor:
        return F.elu(mixed).add_(self.inputs.rows(part)) if self.residual else F.elu(mixed)

    def unfinished(
        self, part: Part, alpha: Tensor, upstream: Callable, sums: Layer
    ) -> tuple[Tensor | None, Tensor]:
        """The way back: the gradient of the residual's rows, if there is one, and of the aggregate
        [m, D]; adds that of W_out.
        """
        aggregated = self.gather_sum(alpha, part)
        mixed = mix(aggregated, self.layer.output)
        grad = upstream(part, lambda: self.output(part, mixed))
        grad_mixed = torch.ops.aten.elu_backward(grad, 1.0, 1.0, 1.0, False, mixed)
        add_mix_gradient(sums.output, grad_mixed, aggregated)
        return grad if self.residual else None, mix(grad_mixed, self.layer.output.transpose(1, 2))

    def backward(
        self, upstream: Callable[[Part, Callable[[], Tensor]], Tensor], sums: Layer
    ) -> None:
        """upstream(part, output) gives the gradient [m, D] of a part's x', which output() computes
        again; adds the parameters' gradients to `sums` (float32 or wider) and the inputs' to
        `inputs`.
        """
        sources = self.sources
        grad_sources = self.buffers.take(
            "grad_sources", sources.shape, sources, softmax_dtype(sources.dtype)
        ).zero_()
        for part in self.parts:
            alpha = self.alpha[part.flat]
            grad_rows, grad_aggregated = self.unfinished(part, alpha, upstream, sums)
            grad_targets = self.attend_backward(
                part, grad_aggregated, alpha, grad_sources, sums.attention
            )
            self.inputs.add(part, grad_rows, grad_targets)
        self.inputs.add_sources(grad_sources.to(sources.dtype), sums)

    def attend_backward(
        self,
        part: Part,
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
        attention, targets = self.layer.attention, self.inputs.targets(part)
        if self.fused:
            table = self.table
            found = kernels.attention_backward(
                upstream, targets, self.sources, attention, alpha, table.heard, table.hearers
            )
            grad_sources += found[1]
            grad_attention += found[2]
            return found[0]
        upstream = split_heads(upstream, attention)[:, None]
        heard = self.gather(part)
        product = torch.mul(heard, upstream, out=self.buffers.take("product", heard.shape, heard))
        grad_alpha = product.sum(-1, dtype=alpha.dtype)
        grad_logits = alpha * (grad_alpha - (alpha * grad_alpha).sum(1, keepdim=True))
        before = heard.add_(split_heads(targets, attention)[:, None])
        grad_before = product.copy_(grad_logits[..., None])
        torch.ops.aten.leaky_relu_backward.grad_input(
            grad_before, before, NEGATIVE_SLOPE, False, grad_input=grad_before
        )
        grad_attention += before.mul_(grad_before).sum((0, 1), dtype=grad_attention.dtype)
        grad_targets = grad_before.mul_(attention).sum(1).flatten(1)
        grad_heard = grad_before.addcmul_(alpha.to(heard.dtype)[..., None], upstream)
        index, rows = (
            self.table.index[part.flat].flatten().long(),
            grad_heard.view(-1, self.sources.shape[1]),
        )
        add_rows(grad_sources, index, rows.to(grad_sources.dtype))
        return grad_targets


def attention_logits(heard: Tensor, targets: Tensor, attention: Tensor) -> Tensor:
    """e_ij = a · LeakyReLU(t_i + s_j) [m, K, H] in float32 or wider; heard [m, K, H, d] is
    overwritten.
    """
    before = heard.add_(split_heads(targets, attention)[:, None])
    return (
        F.leaky_relu_(before, NEGATIVE_SLOPE)
        .mul_(attention)
        .sum(-1, dtype=softmax_dtype(heard.dtype))
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
