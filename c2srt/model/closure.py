"""With `unverified: ignore` an image's loss reads only its verified categories: which nodes do
their scores need?

A category's score needs itself and, a layer deeper each time, its neighbours' neighbours: about 63
of 7,186 nodes for the three verified labels of an Open Images photo with two layers of 4
neighbours. Such a closure is a small graph of its own, on which the head runs unchanged: nodes at
its rim lack neighbours, but nothing that is scored hears what comes of them.

Shapes: B images, b images of a tile, n nodes an image, C categories, K neighbours (self-loop
included).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Closure:
    """Images `images` [b] of the batch, the categories each of them computes [b, n], which of those
    places hold a category [b, n] (images need different numbers), and their neighbours as places of
    the same image [b, n, K], −1 absent.
    """

    images: Tensor
    categories: Tensor
    present: Tensor
    table: Tensor


def needed(labels: Tensor, table: Tensor, layers: int) -> Tensor:
    """[B, C] bool: the nodes that the scores of the verified categories need; labels [B, C] in
    −1/0/1, table [C, K].
    """
    mask = labels != 0
    for _ in range(layers):
        image, category = mask.nonzero(as_tuple=True)
        heard = table[category]
        mask[image[:, None].expand_as(heard)[heard >= 0], heard[heard >= 0]] = True
    return mask


def closures(mask: Tensor, table: Tensor, largest: int) -> list[Closure]:
    """Cuts images that need few nodes into tiles of at most `largest` places (at least one image),
    fewest nodes first.

    `mask` [B, C] from `needed`. Left out: images that need nothing, and those that need more than
    half of the categories, for which `dense` is quicker.
    """
    counts = mask.sum(1)
    order = counts.argsort(stable=True).tolist()
    counts = counts.tolist()
    tiles, current = [], []
    for image in order:
        if counts[image] == 0 or 2 * counts[image] > mask.shape[1]:
            continue
        if current and (len(current) + 1) * counts[image] > largest:
            tiles.append(current)
            current = []
        current.append(image)
    if current:
        tiles.append(current)
    return [closure(torch.tensor(images, device=mask.device), mask, table) for images in tiles]


def dense(mask: Tensor) -> list[int]:
    """The images that need more than half of all categories."""
    return (2 * mask.sum(1) > mask.shape[1]).nonzero().flatten().tolist()


def closure(images: Tensor, mask: Tensor, table: Tensor) -> Closure:
    mask = mask[images]
    place = mask.cumsum(1) - 1
    image, category = mask.nonzero(as_tuple=True)
    categories = torch.zeros(
        len(images), int(mask.sum(1).max()), dtype=torch.long, device=mask.device
    )
    present = torch.zeros_like(categories, dtype=torch.bool)
    places = table.new_full((*categories.shape, table.shape[1]), -1)
    categories[image, place[image, category]] = category
    present[image, place[image, category]] = True
    heard, who = table[category], image[:, None]
    inside = (heard >= 0) & mask[who, heard.clamp(min=0)]
    places[image, place[image, category]] = place[who, heard.clamp(min=0)].masked_fill(~inside, -1)
    return Closure(images, categories, present, places)
