"""Every family of backbones: its features are open_clip's own, its costs are those of its plan, and
it goes from its text features to a prediction.

Weights are random and the towers small; nobody here has seen the released ones.
"""

import copy
import json
import shutil

import open_clip
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import c2srt
from c2srt.backbone import library
from c2srt.backbone.clip import build_model, load_clip, with_tower
from c2srt.backbone.listing import REFUSED, TAKEN, row_of
from c2srt.backbone.timm_vit import TimmTower
from c2srt.export.read import load_export
from c2srt.model.config import ModelConfig
from c2srt.plan.outline import count, outline
from tests.families import (
    FAMILIES,
    HUB,
    NATIVE,
    SIZES,
    SMALL,
    Family,
    hub_model,
    named,
    train_shrunk,
)
from tests.hub_files import hub_tokenizer
from tests.ranks import run_ranks
from tests.test_backbone import config_file, photo, pixels
from tests.train_case import make_case, told

POOLERS = dict.fromkeys(SIZES, "mean_pooler") | {"bert": "cls_pooler", "m2m_100": "cls_pooler"}


def built(family: Family) -> tuple[torch.nn.Module, torch.nn.Module]:
    """open_clip's own model, its parameters drawn anew so that none is 0 or 1, and a copy with our
    tower.
    """
    content = family.content()
    with family.shrunk():
        theirs = build_model(content).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in [*theirs.parameters(), *norm_statistics(theirs)]:
            tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.05)
    return theirs, with_tower(copy.deepcopy(theirs)).eval()


def norm_statistics(model: torch.nn.Module) -> list[torch.Tensor]:
    found = [part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    return [values for part in found for values in (part.running_mean, part.running_var)]


def patch_features(theirs: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """What open_clip's model makes of tokens [B, R, W] behind the trunk's last norm, if it pools a
    single patch's token at a time: [B, P, D].
    """
    visual = theirs.visual
    trunk, prefix = visual.trunk, visual.trunk.num_prefix_tokens
    found = []
    for number in range(prefix, tokens.shape[1]):
        alone = tokens[:, number : number + 1]
        if getattr(trunk, "attn_pool", None) is not None:
            pooled = trunk.attn_pool(alone)
        else:
            pooled = alone[:, 0]
        found.append(visual.head(trunk.head(trunk.fc_norm(pooled))))
    return torch.stack(found, 1)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_features_are_open_clip_s_own(name):
    theirs, ours = built(FAMILIES[name])
    tower, size = ours.visual, ours.visual.image_size
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    patches, global_ = tower(images)
    assert isinstance(tower, TimmTower)
    torch.testing.assert_close(global_, theirs.encode_image(images), atol=1e-6, rtol=1e-5)
    assert torch.equal(global_, tower.global_features(images))
    trunk = theirs.visual.trunk
    expected = patch_features(theirs, trunk.forward_features(images))
    torch.testing.assert_close(patches, expected, atol=1e-5, rtol=1e-4)
    assert patches.shape == (2, tower.grid[0] * tower.grid[1], tower.width)
    assert tower.width == FAMILIES[name].content()["embed_dim"]
    state = {key: value for key, value in theirs.state_dict().items() if "visual." in key}
    mine = tower.clip_state(tower.state_dict())
    assert mine.keys() == state.keys()
    assert all(torch.equal(mine[key], state[key]) for key in state)


@pytest.mark.parametrize("name", named(FAMILIES | NATIVE))
def test_text_features_are_open_clip_s_own_too(name, tmp_path):
    family = (FAMILIES | NATIVE)[name]
    with family.shrunk():
        clip = load_clip(config_file(tmp_path, family.content(tmp_path / "hub")))
        theirs = library.build(clip.model_config).eval()
    clip.model.double()  # float32 rounds the cut padding's sums by up to 2e-6, on some processors
    texts = ["a photo of a zebra.", "thing 1, thing 2", "thing " * 90]
    with torch.no_grad():
        expected = theirs.double().encode_text(clip.tokenize(texts))
    torch.testing.assert_close(clip.encode_texts(texts), expected, atol=1e-12, rtol=1e-12)
    row = row_of(family.config)
    assert clip.causal_text == (row.section == TAKEN and row.cells[-1] == "yes")


@pytest.mark.parametrize("name", FAMILIES)
def test_patches_lie_where_they_are_in_the_picture(name):
    """A change in one corner moves that corner's patch most, before attention mixes them."""
    ours = built(FAMILIES[name])[1]
    tower, size = ours.visual, ours.visual.image_size
    with torch.no_grad():
        for block in tower.blocks:
            for parameter in block.parameters():
                parameter.zero_()
        images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(3))
        changed = images.clone()
        changed[:, :, : size // tower.grid[0], -(size // tower.grid[1]) :] += 1
        moved = (tower(images)[0] - tower(changed)[0]).norm(dim=-1)[0]
    assert int(moved.argmax()) == tower.grid[1] - 1


@pytest.mark.parametrize("name", FAMILIES)
def test_a_student_s_tower_computes_alike_in_training(name):
    """No dropped blocks, and no batch's own statistics."""
    tower = built(FAMILIES[name])[1].visual
    images = torch.rand(2, 3, tower.image_size, tower.image_size)
    expected = tower(images)[1]
    before = copy.deepcopy(tower.state_dict())
    tower.train()
    torch.testing.assert_close(tower(images)[1], expected)
    assert all(torch.equal(before[key], value) for key, value in tower.state_dict().items())
    tower.freeze(1)
    depths = {key: tower.depth(key) for key, _ in tower.named_parameters()}
    trained = {key for key, value in tower.named_parameters() if value.requires_grad}
    assert trained == {key for key, depth in depths.items() if depth < 2}
    assert {depths[key] for key in depths} == set(range(len(tower.blocks) + 2))
    tower(images)[1].sum().backward()
    assert all(value.grad is not None for value in tower.parameters() if value.requires_grad)


@pytest.mark.parametrize("name", FAMILIES)
def test_flops_are_those_that_torch_counts(name, tmp_path, monkeypatch):
    family = FAMILIES[name]
    monkeypatch.setattr("c2srt.backbone.clip.tokenizer_of", lambda *_: None)
    config = config_file(tmp_path, family.content())
    with family.shrunk():
        shape = outline(config, ModelConfig(trainable_blocks=None))
        tower = built(family)[1].visual.train()
    images = torch.rand(1, 3, tower.image_size, tower.image_size)
    with FlopCounterMode(display=False) as counter:
        patches, global_ = tower(images)
    assert shape.forward_flops() == pytest.approx(counter.get_total_flops(), rel=0.02)
    with FlopCounterMode(display=False) as counter:
        (patches.sum() + global_.sum()).backward()
    if name != "ViTamin":  # going back, torch counts a convolution in groups as if it had none
        assert shape.backward_flops() == pytest.approx(counter.get_total_flops(), rel=0.06)
    kept = saved_bytes(tower, images)
    assert 0.8 * kept <= shape.saved_bytes(1, 4) <= 1.3 * kept


def saved_bytes(tower: torch.nn.Module, images: torch.Tensor) -> int:
    """Of the activations that autograd keeps: no parameters, no storage twice."""
    own = {value.untyped_storage().data_ptr() for value in tower.state_dict().values()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        patches, global_ = tower(images.clone().requires_grad_())
    del patches, global_
    return sum(kept.values())


@pytest.mark.slow
def test_every_real_image_tower_can_be_built():
    """Of all models that the list says work; without memory, and with a small text tower."""
    seen = set()
    for name in library.model_names():
        content = library.model_config(name)
        content["text_cfg"] = {"layers": 1, "width": 32, "heads": 2, "vocab_size": 64}
        if row_of(name).section == REFUSED or (key := json.dumps(content)) in seen:
            continue
        seen.add(key)
        with torch.device("meta"):
            tower = with_tower(build_model(content)).visual
        sizes, (rows, columns) = tower.sizes(), tower.grid
        assert tower.image_size == content["vision_cfg"].get("image_size", 224), name
        assert tower.width == content["embed_dim"], name
        assert sizes.tokens - rows * columns in (0, 1) and rows == columns > 6, name
        assert tower.image_size // rows in (14, 16, 32), name
    assert len(seen) > 60


# --- text towers of the Hugging Face hub


@pytest.mark.hub
@pytest.mark.parametrize("kind", SIZES)
def test_text_features_of_the_hub_s_towers_are_open_clip_s_own(kind, tmp_path):
    """open_clip builds its own from the same folder; ours has the folder's config in it."""
    content = Family("roberta-ViT-B-32", vision=SMALL).content()
    content["text_cfg"] = {"hf_proj_type": "linear", "hf_pooler_type": POOLERS[kind]}
    content["text_cfg"] |= {
        "hf_model_name": str(hub_model(tmp_path / "model", kind)),
        "hf_tokenizer_name": str(hub_tokenizer(tmp_path / "words")),
    }
    clip = load_clip(config_file(tmp_path, content))
    text = content["text_cfg"] | {"hf_model_pretrained": False}
    theirs = open_clip.CustomTextCLIP(512, content["vision_cfg"], text).eval()
    theirs.load_state_dict(clip.state_dict(), strict=True)
    texts = ["a photo of a zebra.", "thing 1, thing 2", "thing " * 90]
    tokens = library.hub_tokenizer(str(tmp_path / "words"), text)(texts)
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_texts(texts), theirs.encode_text(tokens))
    assert not clip.causal_text and clip.context_length == 77
    shape = outline(config_file(tmp_path, content), ModelConfig())
    assert shape.clip_parameters == count(theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", named(FAMILIES | NATIVE | HUB))
def test_a_family_goes_from_text_to_a_prediction(name, tmp_path):
    """Text features, relations, three steps of training, export, prediction; of the hub's files the
    export needs none.
    """
    family = (FAMILIES | NATIVE | HUB)[name]
    with family.shrunk():
        case = make_case(tmp_path, config_file(tmp_path, family.content(tmp_path / "hub")))
        config = told(case, epochs=1, batch=10, micro_batch=10, steps=3, workers=1)
        assert run_ranks(1, train_shrunk, family, config) == ["finished"]
        clip = load_clip(case.clip)
        shutil.rmtree(tmp_path / "hub", ignore_errors=True)
        exported = load_export(tmp_path / "train/model")
        assert exported.clip.hash != clip.hash  # trained
        assert torch.equal(exported.clip.encode_texts(["thing 1"]), clip.encode_texts(["thing 1"]))
        size, last = clip.image_size, f"{clip.tower.BLOCKS}.{len(clip.tower.blocks) - 1}."
        before, after = clip.tower.state_dict(), exported.model.tower.state_dict()
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        assert any(key.startswith(last) for key in changed)
        assert all(clip.tower.depth(key) <= len(clip.tower.blocks) for key in changed)
        scores = exported.scores(pixels(2, size))[0]
        assert scores.shape == (2, 13) and scores.isfinite().all()
        found = c2srt.load(tmp_path / "train/model").predict(photo(), ["thing 1", "zebra"])
    assert {label for label, _ in found[0].labels} == {"thing 1", "zebra"}
