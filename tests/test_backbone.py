"""The seam for backbones: which of open_clip's configs are taken, and one of timm's ViTs from its
text features to a prediction.
"""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

import c2srt
from c2srt.backbone import library, listing
from c2srt.backbone.check import check_config
from c2srt.backbone.clip import (
    build_model,
    build_outline,
    load_clip,
    with_tower,
)
from c2srt.backbone.config import ClipConfig
from c2srt.backbone.ensemble import count_cut
from c2srt.backbone.hub_text import with_text_tower
from c2srt.backbone.shapes import head_shapes
from c2srt.backbone.source import find_source
from c2srt.backbone.timm_vit import TimmTower
from c2srt.backbone.tokens import tokenizer_of
from c2srt.backbone.vit import VitTower
from c2srt.cluster.cli import main
from c2srt.errors import UserError
from c2srt.evaluation.config import SIGMOID
from c2srt.evaluation.scorers import ClipScorer, ModelScorer, Subject
from c2srt.export.files import TOKENIZER
from c2srt.export.read import load_export
from c2srt.files import write_json
from c2srt.model.build import build_student
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.context import Context
from c2srt.plan.outline import count, outline
from c2srt.shards import load_index
from c2srt.teacher.cache import FILE, TeacherCache, cache_key, write_shard
from c2srt.text import load_text
from c2srt.train.config import Config
from c2srt.vocabulary import load_vocabulary
from tests.hub_files import WORDS, hub_tokenizer
from tests.ranks import run_ranks
from tests.shard_folder import make_vocabulary
from tests.test_network import FOREIGN
from tests.tiny import MODEL_CONFIG, random_graph, tiny_clip, tiny_clip_config
from tests.train_case import TEMPLATE, make_case, told, train_rank

SIGLIP2 = "ViT-B-16-SigLIP2-512"
TINY = {
    "embed_dim": 96,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 160,
        "timm_model_name": "test_vit3",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}
"""SigLIP 2's architecture, tiny: attention-pooled, no class token, a text tower that sees all
tokens and reads the last.
"""


def config_file(folder: Path, content: dict, tokenizer: Path | None = None) -> ClipConfig:
    content = copy.deepcopy(content)
    if tokenizer:
        content["text_cfg"] |= {
            "hf_tokenizer_name": str(tokenizer),
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "vocab_size": 64,
        }
    write_json(folder / "clip.json", content)
    return ClipConfig(str(folder / "clip.json"), "random")


# --- which configs are taken


def verdict(name: str) -> str:
    """What becomes of a built-in config, "taken" or the sentence, before anything is built."""
    try:
        tokenizer_of(find_source(ClipConfig(name, "random")).model_config)
    except UserError as error:
        return str(error)
    return "taken"


def kind(name: str) -> str:
    """What a config's own keys say of it."""
    content = library.model_config(name)
    vision, text = content["vision_cfg"], content["text_cfg"]
    if "multimodal_cfg" in content:
        return "CoCa"
    if vision.get("timm_model_name", "").startswith(("convnext", "fastvit", "swin")):
        return "no grid"
    if "hf_model_name" in text:
        return "Hugging Face text"
    if isinstance(vision.get("layers"), list):
        return "ResNet"
    tokens = "other tokens" if "hf_tokenizer_name" in text else "own tokens"
    return f"timm, {tokens}" if "timm_model_name" in vision else tokens


SENTENCES = {
    "own tokens": "taken",
    "timm, own tokens": "taken",
    "other tokens": "this CLIP's text tower needs another tokenizer ({hf_tokenizer_name}), which is"
    " not in the hub's cache here: get it with `hf download {hf_tokenizer_name}`, or take an"
    " open_clip ViT with CLIP's own, such as ViT-B-16",
    "Hugging Face text": "this CLIP's text tower is a Hugging Face model ({hf_model_name}), which"
    " is not in the hub's cache here: get it with `hf download {hf_model_name} --exclude '*.bin'"
    " --exclude '*.safetensors'` (its weights come with the CLIP's), or take an open_clip ViT with"
    " CLIP's own, such as ViT-B-16",
    "CoCa": "this CLIP is a CoCa, whose image tower gives queries of an attention in place of"
    " patches: take a ViT model",
    "no grid": "this CLIP's image tower is timm's {timm_model_name}, which keeps no grid of patches"
    " through its blocks: take a ViT model",
    "ResNet": "this CLIP's image tower is a ResNet, not an open_clip VisionTransformer: take a ViT"
    " model",
}
SENTENCES["timm, other tokens"] = SENTENCES["other tokens"]
COUNTS = {
    "own tokens": 32,
    "other tokens": 13,
    "timm, own tokens": 32,
    "timm, other tokens": 26,
    "Hugging Face text": 9,
    "CoCa": 4,
    "no grid": 18,
    "ResNet": 10,
}


def missing(*_: object, **__: object) -> None:
    raise OSError("no such files")


def test_every_config_of_open_clip_is_taken_or_refused_by_name(monkeypatch):
    """Where no files of the hub are there; nothing is built, nothing asked of the network."""
    monkeypatch.setattr(library, "hub_tokenizer", missing)
    monkeypatch.setattr(library, "hub_folder", missing)
    found: dict[str, int] = {}
    for name in library.model_names():
        content = library.model_config(name)
        words = content["vision_cfg"] | content["text_cfg"]
        assert verdict(name) == SENTENCES[kind(name)].format_map(words), name
        found[kind(name)] = found.get(kind(name), 0) + 1
    assert found == COUNTS and sum(found.values()) == 144


def test_the_documents_list_is_what_the_command_says(capsys):
    """docs/backbones.md: made anew with `c2srt backbones > docs/backbones.md`."""
    assert main(["backbones"]) == 0
    printed = capsys.readouterr().out
    assert printed == (Path(__file__).parent.parent / "docs/backbones.md").read_text("utf-8")
    for name in library.model_names():
        assert printed.count(f"| {name} |") == 1


def test_the_list_says_of_each_model_what_becomes_of_it(monkeypatch):
    monkeypatch.setattr(library, "hub_tokenizer", missing)
    monkeypatch.setattr(library, "hub_folder", missing)
    sections = {
        "own tokens": listing.TAKEN,
        "other tokens": listing.TOKENS,
        "Hugging Face text": listing.TOWERS,
    }
    for name in library.model_names():
        row = listing.row_of(name)
        assert row.section == sections.get(kind(name).removeprefix("timm, "), listing.REFUSED)
        assert row.section != listing.REFUSED or verdict(name).startswith(row.cells[1])
        if row.section == listing.TOKENS:
            assert f"another tokenizer ({row.cells[-1]})" in verdict(name)


def test_some_of_the_list(capsys):
    assert main(["backbones", "named=gopt"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| ViT-gopt-16-SigLIP2-") == 2 and "ViT-B-16 " not in printed
    assert main(["backbones", "named=gpt-7"]) == 2
    assert "no model of open_clip has that in its name" in capsys.readouterr().err


def test_a_file_of_weights_gets_the_pixels_of_its_model(tmp_path):
    """Also where open_clip itself takes CLIP's: it knows those of a tag only."""
    half = (0.5,) * 3
    assert library.normalisation("ViT-B-16-SigLIP2", {}) == (half, half)
    assert library.normalisation("ViT-B-16", {}) == (library.MEAN, library.STD)
    assert library.normalisation("ViT-L-14", {}) == (library.MEAN, library.STD)
    laion = library.released_weights("ViT-L-14", "laion2b_s32b_b82k")
    assert library.normalisation("ViT-L-14", laion) == (half, half)
    assert library.normalisation("MobileCLIP-B", {}) == ((0.0,) * 3, (1.0,) * 3)
    assert library.normalisation(str(tmp_path / "own.json"), {}) == (library.MEAN, library.STD)


class Words:
    """Stands for any tokenizer that is there."""

    def __init__(self, size: int) -> None:
        self.size, self.hash = size, "0"


def test_with_their_tokenizers_the_others_are_taken(monkeypatch):
    monkeypatch.setattr("c2srt.backbone.tokens.hub_tokenizer", lambda *_: Words(20))
    taken = {name for name in library.model_names() if verdict(name) == "taken"}
    assert taken == {name for name in library.model_names() if kind(name).endswith("tokens")}
    assert taken > set(FOREIGN["another tokenizer"])
    monkeypatch.setattr("c2srt.backbone.tokens.hub_tokenizer", lambda *_: Words(10**6))
    assert "knows 32,000 tokens, its tokenizer has 1,000,000" in verdict("ViT-H-14-CLIPA")


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-L-14-CLIPA", "ViT-L-14-worldwide", SIGLIP2])
def test_the_outline_of_a_real_config_says_its_sizes(monkeypatch, name):
    monkeypatch.setattr("c2srt.backbone.tokens.hub_tokenizer", lambda *_: Words(20))
    content, tower = library.model_config(name), build_outline(ClipConfig(name, "random")).visual
    vision = content["vision_cfg"]
    side = vision["image_size"] // vision.get("patch_size", 16)
    assert (tower.width, tower.image_size) == (content["embed_dim"], vision["image_size"])
    assert tower.grid == (side, side) and len(tower.blocks) == vision.get("layers", 12)
    assert tower.sizes().tokens == side**2 + (name != SIGLIP2)


@pytest.mark.slow
def test_the_shapes_that_are_read_off_the_configs_are_those_that_are_built():
    """Of every image tower; with a text tower that is small and needs nothing of the hub."""
    text, seen = {"context_length": 8, "vocab_size": 9, "width": 64, "heads": 1, "layers": 1}, []
    for (patches, width), names in head_shapes().items():
        for vision in (library.model_config(name)["vision_cfg"] for name in names):
            if vision not in seen:
                seen.append(vision)
                content = {"embed_dim": width, "vision_cfg": vision, "text_cfg": text}
                tower = build_model(content, library.outline).visual
                size = getattr(tower, "grid_size", None) or tower.trunk.patch_embed.grid_size
                assert size[0] * size[1] == patches, vision
    assert len(seen) > 60


@pytest.mark.parametrize(
    "part, change, sentence",
    [
        ("vision_cfg", {"timm_pool": "abs_attn"}, "timm's test_vit3 with timm_pool=abs_attn"),
        ("vision_cfg", {"timm_pool": ""}, "timm's test_vit3 with timm_pool=,"),
        ("vision_cfg", {"timm_model_pretrained": True}, "test_vit3 with timm_model_pretrained"),
        ("vision_cfg", {"timm_model_name": "hf-hub:some/model"}, "timm's hf-hub:some/model, which"),
        ("vision_cfg", {"timm_model_name": "test_vit3.r160_in1k"}, "timm's test_vit3.r160_in1k"),
        ("vision_cfg", {"timm_model_name": ["test_vit3"]}, "keeps no grid of patches"),
        ("vision_cfg", {"timm_pool": "max"}, "with timm_pool=max"),
        ("vision_cfg", {"image_size": 224}, "image_size=224 is not the size of timm's test_vit3"),
        ("text_cfg", {"tokenizer_kwargs": {"clean": "lower"}}, "needs another tokenizer"),
    ],
)
def test_a_changed_config_is_refused(tmp_path, part, change, sentence):
    content = copy.deepcopy(TINY)
    content[part] |= change
    with pytest.raises(UserError, match=sentence):
        load_clip(config_file(tmp_path, content))


def test_pictures_are_square(tmp_path):
    content = copy.deepcopy(MODEL_CONFIG)
    content["vision_cfg"]["image_size"] = [32, 40]
    with pytest.raises(UserError, match="takes pictures of 32 × 40 pixels"):
        load_clip(config_file(tmp_path, content))
    content = copy.deepcopy(TINY)
    content["vision_cfg"]["image_size"] = [160, 192]
    with pytest.raises(UserError, match=r"image_size=\[160, 192\] is not the size of .*, 160"):
        load_clip(config_file(tmp_path, content))


@pytest.mark.parametrize(
    "content, sentence",
    [
        ({}, "is not what it should be"),
        (MODEL_CONFIG | {"text_cfg": 3}, "is not what it should be"),
        (
            MODEL_CONFIG | {"text_cfg": {"hf_model_name": ["a"]}},
            "a Hugging Face model .* not there",
        ),
        (MODEL_CONFIG | {"text_cfg": {"hf_model_name": "a/b/../c"}}, "not in the hub's cache here"),
        (MODEL_CONFIG | {"vision_cfg": {"timm_model_name": "*"}}, "timm's \\*, which keeps no"),
        (
            MODEL_CONFIG | {"vision_cfg": {"timm_model_name": "test_vit3", "timm_pool": []}},
            "timm_p",
        ),
    ],
)
def test_a_config_that_is_none_is_one_sentence(tmp_path, content, sentence):
    with pytest.raises(UserError, match=sentence):
        load_clip(config_file(tmp_path, content))


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"model_type": "gpt2"}, "of the type gpt2, and open_clip knows bert, m2m_100, mt5"),
        ({"attn_implementation": "some/kernels"}, "with attn_implementation=some/kernels"),
        ({"auto_map": {"AutoModel": "code.Model"}}, "with auto_map="),
        ({"num_hidden_layers": 10**4}, "with num_hidden_layers=10000"),
        ({"hidden_size": 1 << 40}, "with hidden_size="),
        ({"_commit_hash": 1}, "with _commit_hash=1"),
    ],
)
def test_a_text_tower_of_the_hub_is_numbers_and_known_words(tmp_path, changes, sentence):
    """What an export's config must not have is left out of a folder's."""
    content = copy.deepcopy(MODEL_CONFIG)
    right = {"model_type": "bert", "hidden_act": "gelu", "hidden_size": 32, "is_decoder": False}
    write_json(tmp_path / "config.json", right | changes)
    text = {"hf_model_name": str(tmp_path)}
    with pytest.raises(UserError, match=f"a Hugging Face model .*{re.escape(sentence)}"):
        check_config(content | {"text_cfg": text | {"hf_config": right | changes}})
    if "model_type" in changes or isinstance(next(iter(changes.values())), int):
        return
    assert with_text_tower({"text_cfg": text})["text_cfg"]["hf_config"] == right


# --- features


def pixels(count: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def towers(content: dict) -> tuple[torch.nn.Module, torch.nn.Module]:
    """open_clip's own model, and the same one with our tower."""
    return library.build(content).eval(), with_tower(build_model(content)).eval()


@pytest.mark.parametrize("content", [SIGLIP2, TINY], ids=["real", "tiny"])
@torch.no_grad()
def test_an_attention_pooled_vit_has_open_clip_s_own_global_feature(content):
    """Of the real config only the text tower is made smaller, for memory."""
    if content is SIGLIP2:
        content = library.model_config(SIGLIP2)
        content["text_cfg"] |= {"vocab_size": 64, "layers": 1}
    theirs, ours = towers(content)
    tower = ours.visual
    images = torch.randn(1, 3, tower.image_size, tower.image_size)
    patches, global_ = tower(images)
    assert isinstance(tower, TimmTower)
    assert torch.equal(global_, theirs.encode_image(images))
    assert torch.equal(global_, tower.global_features(images))
    assert patches.shape == (1, tower.grid[0] * tower.grid[1], tower.width)
    alone = theirs.visual.trunk.attn_pool(tower.tokens(images)[:, -1:])
    torch.testing.assert_close(patches[:, -1], alone)
    state = {name: value for name, value in theirs.state_dict().items() if "visual." in name}
    assert tower.clip_state(tower.state_dict()).keys() == state.keys()


@torch.no_grad()
def test_patches_pass_the_norm_that_stands_behind_the_pool(tmp_path):
    """As in CLIPA's ViTs: the global feature is open_clip's, and a patch passes what it passes."""
    content = copy.deepcopy(MODEL_CONFIG)
    content["vision_cfg"] |= {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True}
    theirs, ours = towers(content)
    tower, images = ours.visual, torch.randn(2, 3, 32, 32)
    patches, global_ = tower(images)
    theirs.visual.output_tokens = True
    pooled, tokens = theirs.visual(images)
    assert isinstance(tower, VitTower) and torch.equal(global_, pooled)
    torch.testing.assert_close(patches, theirs.visual.ln_post(tokens) @ theirs.visual.proj)


def test_a_frozen_clip_of_a_native_vit_is_a_copy_s_equal(tmp_path):
    clip, images = tiny_clip(tmp_path), pixels(3, 32)
    patches, global_ = clip.encode_images(images)
    assert patches.shape == (3, 16, 16)
    assert torch.equal(global_, clip.images.global_features(images))
    copied = copy.deepcopy(clip.tower)
    assert torch.equal(copied(clip.images.pixels(images))[1], global_)


def test_a_head_that_trains_the_projection_is_refused_where_there_is_none(tmp_path):
    clip = load_clip(config_file(tmp_path, TINY))
    graph, loss = random_graph(12, 9, 96, 3), LossConfig(distillation=0)
    with pytest.raises(UserError, match="has no projection to the joint space"):
        build_student(clip, ModelConfig(kind="qks"), loss, graph, 9)
    with pytest.raises(UserError, match="cannot be tuned"):
        Context.of(clip, "a photo of a {}.")


def test_freezing_and_depth_of_an_attention_pooled_vit(tmp_path):
    clip = load_clip(config_file(tmp_path, TINY))
    config = ModelConfig(heads=4, neighbours=3, trainable_blocks=1)
    model = build_student(clip, config, LossConfig(), random_graph(12, 9, 96, 3), 9)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    ours = ("head.", "tower.pool.", "tower.vit.trunk.norm.", "tower.vit.trunk.blocks.8.")
    assert all(name.startswith(ours) for name in trained)
    assert all(any(name.startswith(part) for name in trained) for part in ours)
    depths = {name: model.parameter_depth(name) for name, _ in model.named_parameters()}
    assert depths["tower.pool.latent"] == depths["tower.vit.trunk.norm.weight"] == 0
    assert depths["tower.vit.trunk.blocks.8.attn.qkv.weight"] == 1
    assert depths["tower.vit.trunk.blocks.0.attn.qkv.weight"] == 9
    assert depths["tower.vit.trunk.pos_embed"] == 10
    with pytest.raises(UserError, match="outside 0…9"):
        model.tower.freeze(10)
    shape = outline(ClipConfig(str(tmp_path / "clip.json"), "random"), config)
    assert (shape.tower_parameters, shape.tower_trained) == (
        count(model.tower),
        count(model.tower, True),
    )


# --- tokenizers of the hub


@pytest.mark.hub
@pytest.mark.parametrize(
    "text, vision",
    [
        ({"pool_type": "eos", "eos_id": 1}, {}),
        ({"pool_type": "last", "no_causal_mask": True}, {"pool_type": "avg"}),
    ],
    ids=["worldwide", "CLIPA"],
)
def test_text_features_are_open_clip_s_with_another_tokenizer(tmp_path, text, vision):
    content = copy.deepcopy(MODEL_CONFIG)
    content["text_cfg"] |= text
    content["vision_cfg"] |= vision
    clip = load_clip(config_file(tmp_path, content, hub_tokenizer(tmp_path / "words")))
    texts = ["a photo of a zebra.", "thing 1, thing 2", "thing " * 30]
    theirs = library.build(clip.model_config).eval()
    tokens = library.hub_tokenizer(str(tmp_path / "words"), clip.model_config["text_cfg"])(texts)
    assert tokens[0].tolist()[:7] == [3, 4, 5, 3, 7, 1, 0] and tokens.shape == (3, 16)
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_texts(texts), theirs.encode_text(tokens))
    assert clip.count_tokens(texts) == [6, 5, 31]
    assert count_cut(clip, ["zebra", "thing " * 12, "thing " * 13], ["a {}", "a photo of {}"]) == 1
    other = copy.deepcopy(clip)
    other.tokenizer.hash = "another"
    assert other.hash != clip.hash


@pytest.mark.hub
def test_a_tokenizer_in_the_hub_s_cache_is_found_by_its_name(tmp_path):
    cached = tmp_path / "cache/models--some--words"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("0" * 40)
    hub_tokenizer(cached / "snapshots" / ("0" * 40))
    config = {"text_cfg": {"hf_tokenizer_name": "some/words", "vocab_size": 64}}
    program = f"from c2srt.backbone.tokens import tokenizer_of as f; print(f({config}).size)"
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(len(WORDS)), done.stderr


# --- a folder as `hf download` makes of an open_clip model


def downloaded(folder: Path) -> Path:
    """SigLIP 2's architecture, tiny, with its tokenizer and weights."""
    hub_tokenizer(folder)
    content = copy.deepcopy(TINY)
    content["text_cfg"] |= {"hf_tokenizer_name": "some/words", "vocab_size": 64}
    shown = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.5, 0.5], "resize_mode": "squash"}
    write_json(folder / "open_clip_config.json", {"model_cfg": content, "preprocess_cfg": shown})
    state = {name: value + 0.01 for name, value in library.build(content).state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


@pytest.mark.hub
def test_a_folder_brings_all_of_a_clip(tmp_path, monkeypatch):
    folder = downloaded(tmp_path / "siglip2")
    clip = load_clip(ClipConfig(str(folder)))
    assert (clip.mean, clip.std) == ((0.5, 0.5, 0.5), (0.25, 0.5, 0.5))
    assert clip.logit_bias == pytest.approx(-9.99)
    assert clip.count_tokens(["a photo"]) == [3]
    predictor = c2srt.load("clip", clip=ClipConfig(str(folder)))
    (found,) = predictor.predict(photo(), ["thing 1", "zebra"])
    assert {label for label, _ in found.labels} == {"thing 1", "zebra"}
    assert predictor.patch_scores(photo(), "zebra").scores.shape == clip.grid
    random = load_clip(ClipConfig(str(folder), "random"))
    assert random.hash != clip.hash and random.mean == clip.mean
    file = ClipConfig(str(folder), str(folder / "open_clip_model.safetensors"))
    assert load_clip(file).hash == clip.hash
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    assert load_clip(ClipConfig("hf-hub:some/model")).hash == clip.hash
    with pytest.raises(UserError, match="clip.pretrained=webli is neither a file nor a tag"):
        load_clip(ClipConfig(str(folder), "webli"))
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights .open_clip_model.safetensors"):
        load_clip(ClipConfig(str(folder)))
    write_json(folder / "open_clip_config.json", {"model_cfg": {}, "preprocess_cfg": {"mean": []}})
    with pytest.raises(UserError, match="open_clip_config.json is not what it should be"):
        load_clip(ClipConfig(str(folder)))


def test_a_model_that_is_not_in_the_hub_s_cache(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", missing)
    with pytest.raises(UserError, match="get it with `hf download some/model`"):
        load_clip(ClipConfig("hf-hub:some/model"))
    with pytest.raises(UserError, match="is not an open_clip model .`c2srt backbones` lists them"):
        load_clip(ClipConfig("ViT-Z-16"))


# --- one of timm's ViTs, from text features to a prediction


@pytest.mark.parametrize("tokens", ["own", pytest.param("hub", marks=pytest.mark.hub)])
def test_an_attention_pooled_vit_goes_all_the_way(tmp_path, tokens):
    words = hub_tokenizer(tmp_path / "words") if tokens == "hub" else None
    case = make_case(tmp_path, config_file(tmp_path, TINY, words))
    clip, vocabulary = load_clip(case.clip), load_vocabulary(Path(case.shards))
    check_text(case, clip)
    cache_teacher(tmp_path / "teacher", case, clip)
    config = told(case, teacher=str(tmp_path / "teacher"), zero=3, steps=1, workers=1)
    assert run_ranks(1, train_rank, config) == ["finished"]

    folder = tmp_path / "train/model"
    exported, images = load_export(folder), pixels(2, 160)
    assert (folder / TOKENIZER).is_dir() == (tokens == "hub")
    assert not torch.equal(exported.model.tower.pool.latent, clip.tower.pool.latent)
    assert torch.equal(exported.embed(["a zebra"]), load_clip_text(case, ["a zebra"]))
    device = torch.device("cpu")
    scores, _ = ModelScorer(Subject(str(folder), vocabulary), device).scores(images)
    assert torch.equal(torch.from_numpy(scores), exported.scores(images)[0])
    plain, _ = ClipScorer(Subject("clip", vocabulary, case.clip, case.text), device).scores(images)
    assert scores.shape == plain.shape == (2, len(vocabulary))
    check_sigmoid(case, clip, images)
    found = c2srt.load(folder).predict(photo(), ["thing 1", "zebra"])
    assert {label for label, _ in found[0].labels} == {"thing 1", "zebra"}
    if words:
        check_tokenizer_of_export(folder)


def check_sigmoid(case: Config, clip, images: torch.Tensor) -> None:
    """The logarithm of the probabilities that open_clip's own logits mean."""
    vocabulary = load_vocabulary(Path(case.shards))
    subject = Subject("clip", vocabulary, case.clip, case.text, SIGMOID)
    found, _ = ClipScorer(subject, torch.device("cpu")).scores(images)
    tokens = clip.tokenize([TEMPLATE.format(name) for name in vocabulary.names])
    with torch.no_grad():
        theirs = library.build(clip.model_config).eval()
        logits = theirs.get_logits(clip.images.pixels(images), tokens)[0]
    torch.testing.assert_close(torch.from_numpy(found).exp(), logits.sigmoid())


def test_probabilities_of_a_clip_that_has_none_are_refused(tmp_path):
    vocabulary = make_vocabulary(2, 1)
    subject = Subject("clip", vocabulary, tiny_clip_config(tmp_path), "", SIGMOID)
    with pytest.raises(UserError, match="sigmoid needs a CLIP that was trained so"):
        ClipScorer(subject, torch.device("cpu"))


def photo():
    from PIL import Image

    return Image.fromarray(pixels(1, 160)[0].permute(1, 2, 0).numpy())


def check_text(case: Config, clip) -> None:
    """The verb's text features are open_clip's own."""
    vocabulary = load_vocabulary(Path(case.shards))
    features = load_text(Path(case.text), vocabulary, clip.hash)
    texts = [TEMPLATE.format(name) for name in vocabulary.names]
    with torch.no_grad():
        found = library.build(clip.model_config).eval().encode_text(clip.tokenize(texts))
    torch.testing.assert_close(features, normalize(found, dim=-1))


def load_clip_text(case: Config, words: list[str]) -> torch.Tensor:
    from c2srt.backbone.ensemble import embed

    return embed(load_clip(case.clip), words, [TEMPLATE])


def cache_teacher(folder: Path, case: Config, clip) -> None:
    """The teacher's features of the training images, as open_clip's own model has them."""
    index, views = load_index(Path(case.shards)), case.views
    folder.mkdir()
    for shard in index.split("train"):
        write_shard(clip, views, case.seed, index, shard, folder, 8, "cpu")
    key = cache_key(clip, views, case.seed, index, ["train"])
    write_json(folder / FILE, key)
    assert TeacherCache.open(folder, key).width == 96


def check_tokenizer_of_export(folder: Path) -> None:
    """Another tokenizer than the one that was exported is refused."""
    path = folder / TOKENIZER / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["zebra"], vocabulary["thing"] = vocabulary["thing"], vocabulary["zebra"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="its tokenizer is another one"):
        load_export(folder)


def test_paths_are_absolute_for_another_folder_and_names_stay(tmp_path, monkeypatch):
    """Of a folder that `hf download` made, too; other folders may be called like a model or tag."""
    monkeypatch.chdir(tmp_path)
    for folder in ("ViT-B-16", "openai", "mine"):
        (tmp_path / folder).mkdir()
    for file in ("clip.json", "w.safetensors", "mine/open_clip_config.json"):
        (tmp_path / file).write_text("{}")
    named = ClipConfig("ViT-B-16", "openai")
    assert named.absolute() == named
    assert ClipConfig("mine", "random").absolute() == ClipConfig(f"{tmp_path}/mine", "random")
    assert ClipConfig("clip.json", "w.safetensors").absolute() == ClipConfig(
        f"{tmp_path}/clip.json", f"{tmp_path}/w.safetensors"
    )
