"""With `unverified: ignore` an image's loss reads only its verified categories: which nodes do
their scores need?

A category's score needs itself and, a layer deeper each time, its in-neighbours: about 63 of 7,186
nodes for the three verified labels of an Open Images photo with two layers of 4 neighbours. This
k-hop subgraph (k layers) is a small graph of its own, on which the head runs unchanged: nodes at
its rim lack neighbours, but nothing that is scored reads what comes of them.

Shapes: B images, b images of a tile, n nodes an image, C categories, K neighbours (self-loop
included).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Subgraphs:
    """Of the images `images` [b] of a batch, a k-hop subgraph each: the categories that are its
    nodes [b, n], which of those places hold one [b, n] (images need different numbers), and the
    neighbours as places of the same image [b, n, K], −1 absent.
    """

    images: Tensor
    categories: Tensor
    present: Tensor
    table: Tensor


def k_hop(labels: Tensor, table: Tensor, hops: int) -> Tensor:
    """[B, C] bool: the verified categories and all within so many hops against the edges, which
    their scores need; labels [B, C] in −1/0/1, in-neighbours table [C, K].
    """
    mask = labels != 0
    for _ in range(hops):
        image, category = mask.nonzero(as_tuple=True)
        found = table[category]
        mask[image[:, None].expand_as(found)[found >= 0], found[found >= 0]] = True
    return mask


def subgraph_tiles(mask: Tensor, table: Tensor, largest: int) -> list[Subgraphs]:
    """Cuts images that need few nodes into tiles of at most `largest` places (at least one image),
    fewest nodes first.

    `mask` [B, C] from `k_hop`. Left out: images that need nothing, and those that need more than
    half of the categories, for which `dense` is quicker.
    """
    needed = mask.sum(1)
    order, counts = needed.argsort(stable=True).tolist(), needed.tolist()
    tiles: list[list[int]] = []
    current: list[int] = []
    for image in order:
        if counts[image] == 0 or 2 * counts[image] > mask.shape[1]:
            continue
        if current and (len(current) + 1) * counts[image] > largest:
            tiles.append(current)
            current = []
        current.append(image)
    if current:
        tiles.append(current)
    return [subgraphs(torch.tensor(images, device=mask.device), mask, table) for images in tiles]


def dense(mask: Tensor) -> list[int]:
    """The images that need more than half of all categories."""
    return (2 * mask.sum(1) > mask.shape[1]).nonzero().flatten().tolist()


def subgraphs(images: Tensor, mask: Tensor, table: Tensor) -> Subgraphs:
    """Those of some images, side by side; `mask` as in `subgraph_tiles`."""
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
    found, who = table[category], image[:, None]
    inside = (found >= 0) & mask[who, found.clamp(min=0)]
    places[image, place[image, category]] = place[who, found.clamp(min=0)].masked_fill(~inside, -1)
    return Subgraphs(images, categories, present, places)
