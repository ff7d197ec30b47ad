"""Calibration where pictures hold many things of a long tail (tests/coco_like.py): the error falls,
and the threshold names seen categories better than any number of the best.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from c2srt.backbone.clip import Clip, load_clip
from c2srt.backbone.config import ClipConfig
from c2srt.backbone.ensemble import embed
from c2srt.calibration.counts import count
from c2srt.calibration.fit import calibrate
from c2srt.calibration.measured import measure
from c2srt.calibration.per_category import Tally
from c2srt.demo.captions import FORMS
from c2srt.demo.shipped import unpack
from c2srt.model.build import build_student
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.graph import Graph
from c2srt.model.network import Network
from c2srt.relations.neighbours import ABSENT
from c2srt.train.groups import parameter_groups
from c2srt.train.key_groups import OptimizerConfig
from c2srt.train.schedule import learning_rate_factor
from tests.coco_like import CATEGORIES, UNSEEN, Drawn, categories, drawn

SEEN, BATCH = CATEGORIES - UNSEEN, 32
RECORDED = (512, 250, 300), 1
"""Images of training, validation and test, and epochs, of the figures in docs/predict.md."""


def small_clip(folder: Path) -> Clip:
    unpack(folder, 0)
    return load_clip(ClipConfig(f"{folder}/model.json", f"{folder}/model.safetensors"))


def trained(clip: Clip, seed: int, data: Drawn, epochs: int) -> Network:
    """The network without relations, with the miniature's settings, in this process."""
    text = embed(clip, [" ".join(pair) for pair in categories()], list(FORMS))
    torch.manual_seed(seed)
    config = ModelConfig(heads=4, score_scale=16, ist=False, trainable_blocks=None)
    alone = Graph(text, torch.full((CATEGORIES, config.neighbours), ABSENT))
    model = build_student(clip, config, LossConfig(), alone, SEEN, online_teacher=True)
    settings = OptimizerConfig(lr=6e-3, head_lr=3e-4)
    adamw = torch.optim.AdamW(parameter_groups(model, model.parameter_depth, settings))
    rows = [
        part
        for epoch in range(epochs)
        for part in torch.split(
            torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(len(data.images))),
            BATCH,
        )
    ]
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels[:, :SEEN].copy())
    for step, part in enumerate(rows):
        for group in adamw.param_groups:
            factor = learning_rate_factor(step, len(rows), max(1, len(rows) // 20))
            group["lr"] = group["peak_lr"] * factor
        adamw.zero_grad()
        model(images[part], labels[part], None, torch.ones(len(part)))["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_grad_norm)
        adamw.step()
    return model


def scored(model: Network, data: Drawn) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(data.images), 50):
        images = torch.from_numpy(data.images[start : start + 50])
        yield model.scores(images)[0].numpy(), data.labels[start : start + 50]


def measured(folder: Path, seed: int, images: tuple[int, int, int], epochs: int) -> dict:
    """What calibration is worth on the test images, as in calibration.json."""
    train, validation, test = (
        drawn(seed, split, number)
        for split, number in zip(("train", "validation", "test"), images, strict=True)
    )
    model = trained(small_clip(folder), seed, train, epochs)
    calibration = calibrate(count(scored(model, validation), True), SEEN)
    return measure(scored(model, test), calibration, SEEN, True, 0, Tally(CATEGORIES))


def test_the_set_is_complete_long_tailed_and_a_function_of_its_seed():
    data, again = (drawn(0, "train", 60) for _ in range(2))
    assert data.images.shape == (60, 3, 64, 64) and len(set(categories())) == CATEGORIES
    assert (data.images == again.images).all() and (data.labels == again.labels).all()
    assert (drawn(1, "train", 5).images != data.images[:5]).any()
    assert set(np.unique(data.labels)) == {-1, 1} and (data.labels > 0).any(1).all()
    often = np.sort((data.labels > 0).sum(0))[::-1]
    assert often[0] > 5 * often[CATEGORIES // 4] and (data.labels > 0).sum(1).mean() > 3


@pytest.mark.slow
def test_the_error_is_halved_and_the_threshold_is_better_than_the_best_k(tmp_path):
    found = measured(tmp_path, 0, *RECORDED)
    for group in ("seen", "unseen"):
        error = found[group]["ECE"]
        assert error["after"] < error["before"] / 2
    difference, low, high = found["seen"]["F1"]["difference"]
    assert 0 < low <= difference <= high
