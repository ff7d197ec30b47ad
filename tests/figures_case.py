"""A work folder that every figure can be made from."""

from pathlib import Path

import numpy as np
import polars as pl
import torch
from PIL import Image

from c2srt.backbone.clip import load_clip
from c2srt.cluster.cli import main
from c2srt.compose import to_config
from c2srt.evaluation.metric_state import measure
from c2srt.evaluation.results import Task, evaluate_state, write_results
from c2srt.export.read import load_export
from c2srt.export.write import save_export
from c2srt.figures.config import Config
from c2srt.figures.inputs import Inputs
from c2srt.loader import LoaderConfig, evaluation_batches
from c2srt.model.build import build_student
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.graph import Graph
from c2srt.relations.neighbours import ABSENT
from c2srt.shards import load_index
from c2srt.text import Config as TextConfig, load_text, run as write_text
from tests.shard_folder import make_shards, make_vocabulary
from tests.tiny import tiny_clip_config
from tests.verbs import compose_verb

SEEN, UNSEEN, IMAGES = 12, 4, 37


C = SEEN + UNSEEN


def make_world(work: Path) -> Path:
    """A work folder: shards, text, relations, three exports and two evaluations, all of the tiny
    CLIP.
    """
    vocabulary, config = make_vocabulary(SEEN, UNSEEN), tiny_clip_config(work)
    make_shards(work / "shards", {"test": IMAGES}, 10, vocabulary)
    write_text(TextConfig(config, ["a {}."], {}, str(work / "shards"), str(work / "text")))
    clip = load_clip(config)
    network = Graph(load_text(work / "text", vocabulary, clip.hash), neighbour_table())
    for folder, settings in (
        ("full", {"init": "literal"}),
        ("ist", {"init": "literal", "isr": False}),
        ("isr", {"ist": False}),
        ("mkt", {"kind": "mkt", "baseline": {"topk": 4}}),
    ):
        torch.manual_seed(0)
        model = build_student(
            clip,
            ModelConfig(heads=4, neighbours=3, max_patches=6, **settings),
            LossConfig(),
            network,
            SEEN,
        )
        save_export(
            work / folder / "seed-0/model",
            model,
            model.state_dict(),
            clip,
            vocabulary,
            ["a {}."],
            {},
        )
        if folder != "mkt":
            evaluate(work, folder, vocabulary)
    for kind in ("similarity", "random"):
        assert main(["relations", f"work={work}", f"graph={kind}", "neighbours=3"]) == 0
    return work


def neighbour_table() -> torch.Tensor:
    """Three seen neighbours each, none twice; here and there one is missing, and one unseen
    category has none.
    """
    random = np.random.default_rng(0)
    table = np.stack(
        [
            random.permutation([other for other in range(SEEN) if other != row])[:3]
            for row in range(C)
        ]
    )
    table[::3, 2] = ABSENT
    table[SEEN + 1] = ABSENT
    return torch.from_numpy(table)


def evaluate(work: Path, folder: str, vocabulary) -> None:
    """What `c2srt evaluate` writes, without Ray."""
    images, labels = everything(work, vocabulary)
    scores, counts = load_export(work / folder / "seed-0/model").scores(images)
    seen = np.arange(C) < SEEN
    isr = None if counts is None else (int(counts.sum()), 0, counts.numel())
    part = measure(scores.numpy(), labels, seen, (2,), isr=isr)
    results, table = evaluate_state(part, Task(seen, (2,), ("per_class",)), None, None)
    table.insert_column(0, pl.Series("mid", vocabulary.mids)).insert_column(
        1, pl.Series("name", vocabulary.names)
    )
    write_results(
        work / folder / "seed-0/evaluation", {"vocabulary": vocabulary.hash, **results}, table
    )


def everything(work: Path, vocabulary) -> tuple[torch.Tensor, np.ndarray]:
    """Images and labels of the whole test split."""
    batches = list(
        evaluation_batches(
            LoaderConfig(32, workers=0), load_index(work / "shards"), vocabulary, "test"
        )
    )
    return (
        torch.cat([batch.images for batch in batches]),
        torch.cat([batch.labels for batch in batches]).numpy(),
    )


def overrides(work: Path, *more: str) -> list[str]:
    return [
        f"work={work}",
        f"clip.name={work}/tiny.json",
        "clip.pretrained=random",
        "loader_workers=0",
        "batch=8",
        *more,
    ]


def figures(work: Path, out: Path, *more: str) -> int:
    return main(["figures", *overrides(work, f"out={out}", *more)])


def inputs_of(work: Path, *more: str) -> Inputs:
    return Inputs(to_config(Config, compose_verb("figures", overrides(work, *more))))


def check_picture(path: Path) -> None:
    """Print resolution, a page's width at most, many colours, and nothing that touches the
    border.
    """
    image = Image.open(path)
    picture = image.convert("RGB")
    pixels = np.asarray(picture)
    assert round(image.info["dpi"][0]) == 300 and 900 < image.width < 2600
    assert len(picture.getcolors(1 << 24)) > 50
    assert all((edge == 255).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
