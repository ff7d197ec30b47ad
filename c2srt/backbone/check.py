"""Which model configs are taken: a config is data, and decides nothing but shapes."""

import json
from dataclasses import dataclass, fields
from typing import Annotated

from c2srt.backbone import timm_vit
from c2srt.backbone.hub_text import check_architecture
from c2srt.backbone.library import TextCfg, VisionCfg
from c2srt.backbone.tokens import OWN
from c2srt.bounds import Within
from c2srt.errors import UserError
from c2srt.opened import misfit
from c2srt.shown import shown

MOST_PARAMETERS = 6 * 10**9  # EVA02-E-14-plus has 5.0 · 10⁹
SIZES = {
    "layers": (1, 256),
    "width": (1, 1 << 16),
    "head_width": (1, 1 << 16),
    "patch_size": (1, 1 << 12),
    "image_size": (1, 1 << 12),
    "context_length": (1, 1 << 12),
    "vocab_size": (1, 1 << 20),
    "heads": (1, 1 << 10),
    "mlp_ratio": (0, 64),
    "attn_pooler_queries": (1, 1 << 12),
    "attn_pooler_heads": (1, 1 << 10),
}
"""Least and most of what decides time and memory, far beyond every model that there is."""
Size = Annotated[int, Within(ge=1, le=1 << 16)]


@dataclass(frozen=True)
class ModelFile:
    """What an open_clip model config must have; what is none of these it may not have."""

    embed_dim: Size
    vision_cfg: VisionCfg
    text_cfg: TextCfg
    quick_gelu: bool = False
    custom_text: bool = False
    init_logit_scale: float = 0.0
    init_logit_bias: float | None = None
    nonscalar_logit_scale: bool = False


def check_config(model_config: dict) -> None:
    """Raises UserError unless a config describes a CLIP that can be built from itself alone, of a
    size that exists.

    A config is data: one that came with an export must not choose what is fetched from a hub or
    read from a folder, as the keys for timm and Hugging Face do (`hf-hub:…`, `local-dir:…`), nor
    how much memory or time it takes.
    """
    check_towers(model_config)
    text = part(model_config, "text_cfg")
    if text.get("hf_model_name") or "hf_config" in text:
        check_architecture(text.get("hf_model_name"), text.get("hf_config"))
    known = {field.name for field in fields(ModelFile)}
    unlike = misfit(json.dumps(as_open_clip_s(model_config)), ModelFile) or next(
        (f"{shown(key)}: unknown" for key in model_config if key not in known), ""
    )
    unlike = unlike or odd_size(model_config)
    if not unlike and (parameters := count_parameters(model_config)) > MOST_PARAMETERS:
        unlike = f"{parameters:,} parameters are more than any CLIP has"
    if unlike:
        raise UserError(
            f"the open_clip model config is not what it should be ({unlike}): take one of"
            " open_clip's, such as ViT-B-16"
        )


def check_towers(model_config: dict) -> None:
    """Raises UserError if the image tower is of a kind that is not taken, naming it."""
    vision = part(model_config, "vision_cfg")
    if "multimodal_cfg" in model_config or vision.get("attentional_pool"):
        raise UserError(
            "this CLIP is a CoCa, whose image tower gives queries of an attention in place of"
            " patches: take a ViT model"
        )
    if vision.get("timm_model_name"):
        timm_vit.check_vision(vision)
        return
    if isinstance(vision.get("layers"), list):
        raise UserError(
            "this CLIP's image tower is a ResNet, not an open_clip VisionTransformer: take a ViT"
            " model"
        )
    if vision.get("pool_type", "tok") == "none":
        raise UserError("this CLIP's image tower pools nothing (pool_type none): take a ViT model")


def as_open_clip_s(model_config: dict) -> dict:
    """The config without what open_clip's types do not have: our `hf_config`, and the `"timm_proj":
    null` of its own configs, for "none asked for".
    """
    vision, text = (part(model_config, name) for name in ("vision_cfg", "text_cfg"))
    if vision.get("timm_proj", "") is None:
        model_config = model_config | {"vision_cfg": without(vision, "timm_proj")}
    if "hf_config" in text:
        model_config = model_config | {"text_cfg": without(text, "hf_config")}
    return model_config


def without(config: dict, key: str) -> dict:
    return {name: value for name, value in config.items() if name != key}


def part(model_config: dict, name: str) -> dict:
    """The part of a config, {} if it is none."""
    found = model_config.get(name)
    return found if isinstance(found, dict) else {}


def odd_size(model_config: dict) -> str:
    """The first size that no model has, in words, or ""."""
    for name in ("vision_cfg", "text_cfg"):
        for key, (low, high) in SIZES.items():
            given = model_config[name].get(key, low)
            for value in given if isinstance(given, list) else [given]:
                if not low <= value <= high:
                    return f"{name}.{key}: {shown(value, 30)} is outside {low:,}…{high:,}"
    vision = model_config["vision_cfg"]
    sides, patch = vision.get("image_size", 224), vision.get("patch_size", 16)
    if min(sides if isinstance(sides, list) else [sides]) < patch:
        return f"vision_cfg.patch_size: {patch} is more than the image has"
    return ""


def count_parameters(model_config: dict) -> int:
    """About how many parameters a ViT-CLIP of this config has, in the transformers and the
    embeddings.
    """
    vision, text, joint = (
        model_config["vision_cfg"],
        model_config["text_cfg"],
        model_config["embed_dim"],
    )
    found = 0
    for part, layers, width in ((vision, 12, 768), (text, 12, 512)):
        layers, width = part.get("layers", layers), part.get("width", width)
        found += layers * int((4 + 2 * part.get("mlp_ratio", 4)) * width**2) + width * joint
    sides, patch = vision.get("image_size", 224), vision.get("patch_size", 16)
    height, across = sides if isinstance(sides, list) else (sides, sides)
    found += vision.get("width", 768) * (
        (height // patch + 1) * (across // patch + 1) + 3 * patch**2
    )
    return found + text.get("width", 512) * (
        text.get("vocab_size", OWN) + text.get("context_length", 77)
    )
