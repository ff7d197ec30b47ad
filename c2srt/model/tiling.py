"""How the head is cut into (image × category) tiles so that its memory fits a byte budget whatever
the batch.

Shapes: B images, P patches, C categories, D width, H heads, K neighbours with the self-loop, L
layers, E = D, or 3 D when the first layer is folded into the pool.
"""

from dataclasses import dataclass

import psutil
import torch

from c2srt.errors import UserError
from c2srt.model.config import HeadConfig, ModelConfig

MIB = 2**20
SMALLEST_CHUNK = 64
CPU_CHUNK = 512 * 512
"""Values of one [m, D] tensor of a chunk on a CPU: larger ones leave the caches, smaller ones wait
for Python.
"""
CPU_DEFAULT_MIB, CPU_SHARE = 256, 1 / 16
GPU_SHARE = 0.25
"""Of a device's whole memory, not of what is free: that depends on what was freed before, and with
it would tiles, speed and the order of sums.
"""


@dataclass(frozen=True)
class Shape:
    """The sizes that decide the head's memory and work; `chunk` is the most nodes that are worked
    on at once, None: no limit.
    """

    categories: int
    patches: int
    width: int
    itemsize: int
    chunk: int | None = None


@dataclass(frozen=True)
class Tiling:
    """Tiles of `images` × `categories` (chunks of fewer categories are taken one image at a time);
    `fold`: the first layer's projections go through the pool. `bytes` is the estimated peak,
    forward and backward.
    """

    images: int
    categories: int
    bytes: int
    fold: bool = False

    def describe(self, shape: Shape, config: HeadConfig) -> str:
        forward, backward = flops_per_image(shape, config, self.fold)
        return (
            f"head tiles of {self.images} image{'s' * (self.images > 1)} × {self.categories:,} of"
            f" {shape.categories:,} categories, {self.bytes / MIB:,.0f} MiB at most,"
            f" {forward / 1e9:.3g} GFLOP an image forward and {backward / 1e9:.3g} backward"
        )

    def numbers(self, shape: Shape, config: HeadConfig) -> dict[str, float]:
        """The same for the tracker."""
        forward, backward = flops_per_image(shape, config, self.fold)
        return {
            "head/tile_images": self.images,
            "head/tile_categories": self.categories,
            "head/tile_mib": self.bytes / MIB,
            "head/gflop_forward": forward / 1e9,
            "head/gflop_backward": backward / 1e9,
        }


def columns(shape: Shape, config: HeadConfig, fold: bool) -> int:
    """E: how many columns come out of the pool."""
    return shape.width * (3 if fold else 1)


def bytes_of_batch(shape: Shape, config: HeadConfig, fold: bool) -> int:
    """What is kept once for all tiles: the affine text rows and their gradient [C, E], the
    parameters' gradients.
    """
    if not config.ist:
        return 0
    wide, width = max(4, shape.itemsize), shape.width
    parameters = columns(shape, config, fold) * (2 * width + 1) + config.layers * (
        2 * width**2 + width**2 // config.heads
    )
    return shape.categories * columns(shape, config, fold) * (
        shape.itemsize + wide
    ) + parameters * (shape.itemsize + wide)


def bytes_per_image(shape: Shape, config: HeadConfig, fold: bool) -> int:
    """What stays alive for one image of a tile: A [C, P]; s a layer and its gradient once, and for
    every layer that is not folded its input, t and the input's gradient, all [C, D]; α [C, K, H] a
    layer.
    """
    if not config.ist:
        return shape.itemsize * shape.categories * shape.patches
    rows = config.layers + 1 + 3 * (config.layers - fold)
    alpha = 4 * config.layers * (config.neighbours + config.self_loops) * config.heads
    return shape.categories * (shape.itemsize * (rows * shape.width + shape.patches) + alpha)


def bytes_per_node(shape: Shape, config: HeadConfig) -> int:
    """What one node needs while its chunk is worked on: the selection over P, or two gathered [K,
    D] and about eight rows [D].
    """
    selection = 3 * shape.patches + 2 * min(config.max_patches, shape.patches)
    slots = config.neighbours + config.self_loops if config.ist else 0
    return max(4, shape.itemsize) * max(selection, (2 * slots + 8) * shape.width)


def flops_per_image(shape: Shape, config: HeadConfig, fold: bool) -> tuple[float, float]:
    """Floating-point operations of ISR and IST for one image, forward and backward (a multiply-add
    counts 2).
    """
    c, p, d = shape.categories, shape.patches * config.isr or 1, shape.width
    pool, dense, edges = (
        2 * c * p * d,
        2 * c * d * d,
        c * (config.neighbours + config.self_loops) * d,
    )
    forward: float = pool * config.isr
    backward: float = 0
    if not config.ist:
        return forward + pool, 2 * pool
    unfolded = config.layers - fold
    mix = config.layers * dense / config.heads
    deeper, entry = (config.input_layers - 1) * dense, 2 * p * d * columns(shape, config, fold)
    forward += (
        entry
        + pool * (3 if fold else 1)
        + unfolded * 2 * dense
        + deeper
        + mix
        + config.layers * 6 * edges
    )
    backward += (
        2 * entry
        + pool * (4 if fold else 1)
        + unfolded * 4 * dense
        + 3 * deeper
        + 3 * mix
        + config.layers * 14 * edges
    )
    return forward, backward


def budget_bytes(config: ModelConfig, device: torch.device) -> int:
    """`model.tile_mib`, or the default of the device."""
    if config.tile_mib is not None:
        return config.tile_mib * MIB
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * GPU_SHARE)
    return min(CPU_DEFAULT_MIB * MIB, int(psutil.virtual_memory().total * CPU_SHARE))


def chunk_limit(width: int, device: torch.device) -> int | None:
    """Shape.chunk of a device."""
    return max(SMALLEST_CHUNK, CPU_CHUNK // width) if device.type == "cpu" else None


def choose_tiling(shape: Shape, config: HeadConfig, images: int, budget: int) -> Tiling:
    """The fastest tiling within `budget` bytes: folded if that fits, as many whole images as fit,
    else a chunk of one image.

    Raises UserError when not even the smallest chunk of one image fits.
    """
    folds = [True, False] if config.ist and config.input_layers == 1 else [False]
    for fold in folds:
        free = budget - bytes_of_batch(shape, config, fold)
        image, node = bytes_per_image(shape, config, fold), bytes_per_node(shape, config)
        whole = min(
            images,
            free // (image + shape.categories * node),
            (shape.chunk or images * shape.categories) // shape.categories,
        )
        if whole >= 1:
            whole = -(
                -images // -(-images // whole)
            )  # tiles of one size, not many full ones and a rest
            return Tiling(
                whole,
                shape.categories,
                budget - free + whole * (image + shape.categories * node),
                fold,
            )
        chunk = min((free - image) // node, shape.chunk or shape.categories, shape.categories)
        if chunk >= min(SMALLEST_CHUNK, shape.categories):
            return Tiling(1, chunk, budget - free + image + chunk * node, fold)
    least = (
        bytes_of_batch(shape, config, False)
        + bytes_per_image(shape, config, False)
        + SMALLEST_CHUNK * bytes_per_node(shape, config)
    )
    raise UserError(
        f"the head needs at least {-(-least // MIB)} MiB for one image and {shape.categories:,}"
        f" categories, the budget is {budget // MIB} MiB: raise model.tile_mib"
    )
