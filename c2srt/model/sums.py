"""The sums of a pass's gradients, tile after tile, for what the tiles compute with
(`Head.tensors`), and from there the parameters' own gradients, written out by hand: a few products,
where autograd would launch dozens of small operators in each micro-batch.

Shapes: C categories, D width, E columns of the folded affine map (D, or 3 D).
"""

import torch
from torch import Size, Tensor

from c2srt.model.isr import softmax_dtype

ALL, TEXT = "all", "text"


def empty_sums(tensors: dict[str, Tensor], categories: int) -> dict[str, Tensor]:
    """Zeros in float32 or wider for every tensor's gradient, `text` [C, E] for that of the affine
    text rows, and `all`: the tensors' once more, as one vector.
    """
    if not tensors:
        return {}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    like, own = next(iter(tensors.values())), sum(shape.numel() for shape in shapes.values())
    rows = Size((categories, shapes["affine"][0]))
    flat = like.new_zeros(own + rows.numel(), dtype=softmax_dtype(like.dtype))
    return {**split(flat[:own], shapes), TEXT: flat[own:].view(rows), ALL: flat[:own]}


def split(flat: Tensor, shapes: dict[str, Size]) -> dict[str, Tensor]:
    """A vector as tensors of these shapes, one after the other."""
    parts = flat.split([shape.numel() for shape in shapes.values()])
    return {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}


def finish_sums(
    tensors: dict[str, Tensor], folded: Tensor | None, sums: dict[str, Tensor], text: Tensor
) -> None:
    """Passes on, after all tiles, what `sums` holds for no parameter: the text rows' gradient to
    the text columns of `affine`, and that of `affine`'s folded rows to the first layer's
    projections and to FFN_in's first layer. `folded` [2 D, D] are these projections.
    """
    if not sums:
        return
    affine, rows, width = sums["affine"], sums[TEXT], text.shape[1]
    affine[:, width : 2 * width].addmm_(rows.T, text.to(rows.dtype))
    affine[:, 2 * width].add_(rows.sum(0))
    if folded is None:
        return
    first = tensors["affine"][:width].to(affine.dtype)
    for number, name in enumerate(("target", "source"), 1):
        grad = affine[number * width : (number + 1) * width]
        torch.mm(grad, first.T, out=sums[name][0])  # no tile gave the folded layer's anything
    affine[:width].addmm_(folded.T, affine[width:])


def of_parameters(gradients: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """By the parameters' names, those of tensors by theirs."""
    others = {name: one for name, one in gradients.items() if name != "affine"}
    image, text, bias, *_ = gradients["affine"][:width].split([width, width, 1], 1)
    return {"input_image": image, "input_text": text, "input_bias": bias[:, 0], **others}
