"""`c2srt bench step`: a whole training step of the student, with the tiled and with the literal
head.
"""

from functools import partial

import torch
from torch import Tensor

from c2srt.backbone.clip import load_clip
from c2srt.backbone.config import ClipConfig
from c2srt.bench.config import Config
from c2srt.bench.sizes import LOSS, neighbour_table
from c2srt.model.config import ModelConfig
from c2srt.model.graph import Graph
from c2srt.model.network import C2SRT
from c2srt.profiling import DTYPES, Side, device_of


def step(config: Config) -> list[Side]:
    """Forward and backward of ViT, head and loss at the batch; the ViT alone, so that the head's
    share can be told; and the literal head, at the literal batch.
    """
    device = device_of(config.device)
    clip = load_clip(ClipConfig(config.clip, "random"))
    torch.manual_seed(config.seed)
    text = torch.nn.functional.normalize(torch.randn(config.categories, clip.width), dim=-1)
    sides = []
    for form, batch in (("literal", config.literal_batch), ("tiled", config.batch)):
        model = ModelConfig(
            form=form,
            layers=config.layers,
            heads=config.heads,
            neighbours=config.neighbours,
            tile_mib=config.tile_mib,
            trainable_blocks=config.trainable_blocks,
        )
        student = C2SRT(
            clip, model, LOSS, Graph(text, neighbour_table(config)), config.categories
        ).to(device, DTYPES[config.precision])
        batch_of = inputs(config, batch, clip.image_size, clip.width)
        sides.append(
            Side(
                f"whole step, {form} head, batch {batch}",
                partial(train_step, student, *batch_of),
                batch,
                baseline=form == "literal",
            )
        )
        if form == "tiled":
            sides.append(
                Side(f"ViT alone, batch {batch}", partial(tower_step, student, batch_of[0]), batch)
            )
    return sides


def inputs(
    config: Config, batch: int, size: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    device = device_of(config.device)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
    labels = torch.zeros(batch, config.categories, dtype=torch.int8, device=device)
    labels[:, : config.present] = 1
    return (
        images,
        labels,
        torch.randn(batch, width, device=device),
        torch.ones(batch, device=device),
    )


def train_step(student: C2SRT, *batch: Tensor) -> None:
    student.zero_grad(set_to_none=True)
    student(*batch)["loss"].backward()


def tower_step(student: C2SRT, images: Tensor) -> None:
    student.zero_grad(set_to_none=True)
    patches, global_ = student.tower(student.pixels(images))
    (patches.float().mean() + global_.float().mean()).backward()
