"""How the head is cut into (image × category) tiles so that its memory fits a byte budget whatever the batch.

Shapes: B images, P patches, C categories, D width, H heads, K neighbours with the self-loop, L layers.
"""

from dataclasses import dataclass

import psutil
import torch

from c2srt.errors import UserError
from c2srt.model.config import ModelConfig

MIB = 2**20
SMALLEST_CHUNK, LARGEST_CHUNK = 64, 1024  # larger blocks leave the caches and page-fault: no faster on a CPU
CPU_DEFAULT_MIB = 256
GPU_SHARE = 0.25


@dataclass(frozen=True)
class Shape:
    """The sizes that decide the head's memory and work."""

    categories: int
    patches: int
    width: int
    itemsize: int


@dataclass(frozen=True)
class Plan:
    """Tiles of `images` × `categories`; `bytes` is the estimated peak of one tile, forward and backward."""

    images: int
    categories: int
    bytes: int

    def describe(self, shape: Shape, config: ModelConfig) -> str:
        gflop = flops_per_image(shape, config) / 1e9
        return (f"head tiles of {self.images} images × {self.categories:,} of {shape.categories:,} categories, "
                f"{self.bytes / MIB:,.0f} MiB at most, {gflop:.1f} GFLOP an image forward")


def bytes_per_image(shape: Shape, config: ModelConfig) -> int:
    """What stays alive for one image: A [C, P], and [C, D] rows: h_0, then s and h a layer, and three gradients."""
    layers = config.layers if config.ist else 0
    rows = 1 + 2 * layers + 3
    return shape.itemsize * shape.categories * (rows * shape.width + shape.patches)


def bytes_per_category(shape: Shape, config: ModelConfig) -> int:
    """What one category of one image needs while its chunk is worked on: scores and sorting over P, or about ten [c, D] rows."""
    selection = 4 * shape.patches + 4 * min(config.max_patches, shape.patches)
    return max(4, shape.itemsize) * max(selection, 10 * shape.width)


def flops_per_image(shape: Shape, config: ModelConfig) -> float:
    """Forward floating-point operations of ISR and IST for one image (a multiply-add counts 2)."""
    c, p, d = shape.categories, shape.patches, shape.width
    total = 2 * c * p * d * 2 + 2 * p * d * d if config.isr else 0
    if config.ist:
        edges = 2 * c * (config.neighbours + config.self_loops) * d * 3
        total += config.layers * (2 * 2 * c * d * d + edges + 2 * c * d * d / config.heads)
    return total


def budget_bytes(config: ModelConfig, device: torch.device) -> int:
    """`model.tile_mib`, or the default of the device."""
    if config.tile_mib is not None:
        return config.tile_mib * MIB
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * GPU_SHARE)
    return min(CPU_DEFAULT_MIB * MIB, psutil.virtual_memory().available // 4)


def make_plan(shape: Shape, config: ModelConfig, images: int, budget: int) -> Plan:
    """The largest tile within `budget` bytes: whole images first (their rows must stay), then the category chunk.

    Raises UserError when not even one image with the smallest chunk fits.
    """
    resident, per_category = bytes_per_image(shape, config), bytes_per_category(shape, config)
    smallest = min(SMALLEST_CHUNK, shape.categories)
    least = resident + smallest * per_category
    if least > budget:
        raise UserError(f"the head needs at least {-(-least // MIB)} MiB for one image and {shape.categories:,} categories, "
                        f"the budget is {budget // MIB} MiB: raise model.tile_mib")
    widest = min(shape.categories, LARGEST_CHUNK)
    tile = max(1, min(images, budget // (resident + widest * per_category)))
    chunk = min(widest, (budget - tile * resident) // (tile * per_category))
    return Plan(tile, chunk, tile * (resident + chunk * per_category))
