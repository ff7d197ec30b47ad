"""Small models and graphs that several tests build on the spot."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F

from c2srt.backbone.clip import Clip, load_clip
from c2srt.backbone.config import ClipConfig
from c2srt.export.write import save_export
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.graph import Graph
from c2srt.model.network import C2SRT
from c2srt.vocabulary import Vocabulary

MODEL_CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def tiny_clip_config(folder: Path) -> ClipConfig:
    """Writes the tiny model's config into `folder`; the weights are open_clip's seeded random
    ones.
    """
    path = folder / "tiny.json"
    path.write_text(json.dumps(MODEL_CONFIG))
    return ClipConfig(str(path), "random")


def tiny_clip(folder: Path) -> Clip:
    return load_clip(tiny_clip_config(folder))


def random_graph(
    categories: int,
    seen: int,
    width: int,
    neighbours: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Graph:
    """Unit text rows and a table of seen neighbours in which some are missing, one row is empty and
    one source is a hub.
    """
    generator = torch.Generator().manual_seed(seed)
    text = F.normalize(torch.randn(categories, width, generator=generator, dtype=dtype), dim=-1)
    table = torch.randint(0, seen, (categories, neighbours), generator=generator)
    table[torch.rand(table.shape, generator=generator) < 0.2] = -1
    table[:, 0] = torch.where(torch.arange(categories) % 2 == 0, 0, table[:, 0])
    table[seen - 1] = -1
    return Graph(text, table)


def tiny_export(
    folder: Path, clip_folder: Path, names: tuple[str, ...], templates: list[str]
) -> None:
    """Exports an untrained model of eight categories, six of them seen, with random weights
    everywhere.
    """
    clip = tiny_clip(clip_folder)
    torch.manual_seed(0)
    vocabulary = Vocabulary(tuple(f"/m/{column}" for column in range(8)), names, 6)
    model = C2SRT(
        clip,
        ModelConfig(heads=4, neighbours=3, init="literal"),
        LossConfig(),
        random_graph(8, 6, 16, 3),
        6,
    )
    save_export(folder, model, model.state_dict(), clip, vocabulary, templates, {})
