"""The frozen CLIP that everything starts from, through open_clip (this is the only file that
imports it).

Shapes: B images, P patches, D joint width.
"""

import copy
import hashlib
import json
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated

import open_clip
import torch
from open_clip import CLIPTextCfg, CLIPVisionCfg
from open_clip.pretrained import download_pretrained
from torch import Tensor, nn

from c2srt.amounts import Within
from c2srt.backbone.config import RANDOM, ClipConfig
from c2srt.errors import UserError
from c2srt.opened import misfit, read_json, reason, without
from c2srt.shown import shown

VOCABULARY = 49408  # tokens of CLIP's own byte-pair tokenizer
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


@dataclass
class Clip:
    """A loaded CLIP in eval mode with frozen parameters, and what is needed to build and feed it
    again.
    """

    model: nn.Module
    model_config: dict
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def visual(self) -> nn.Module:
        return self.model.visual

    @property
    def image_size(self) -> int:
        return self.visual.image_size[0]

    @property
    def patches(self) -> int:
        rows, columns = self.visual.grid_size
        return rows * columns

    @property
    def width(self) -> int:
        """Joint width D of image and text features."""
        return self.visual.output_dim

    @property
    def logit_scale(self) -> float:
        """exp of CLIP's learned logit scale: 100 for the released models."""
        return self.model.logit_scale.exp().item()

    @property
    def context_length(self) -> int:
        return self.model_config["text_cfg"].get("context_length", 77)

    @cached_property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 over the model config, preprocessing and every
        weight.
        """
        digest = hashlib.sha256(
            json.dumps([self.model_config, self.mean, self.std], sort_keys=True).encode()
        )
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    @property
    def causal_text(self) -> bool:
        """Whether the text tower is the first CLIP models' own: causal, read out at the end-of-text
        token, the highest id.
        """
        model = self.model
        causal = (
            getattr(model, "attn_mask", None) is not None
            and getattr(model, "text_pool_type", None) == "argmax"
        )
        return causal and isinstance(model.text_projection, Tensor)

    @property
    def device(self) -> torch.device:
        """Where the text tower is."""
        return self.model.logit_scale.device

    @torch.no_grad()
    def encode_text(self, tokens: Tensor) -> Tensor:
        """[n, L] token ids -> [n, D] raw text features (not normalised).

        A causal tower never looks past the end-of-text token, so the padding behind the longest
        text is cut: the same features, about six times cheaper for category names.
        """
        if not self.causal_text:
            return self.model.encode_text(tokens)
        ends = tokens.argmax(1)
        return self.encode_embedded(self.embed_tokens(tokens[:, : int(ends.max()) + 1]), ends)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """[…] token ids -> […, W] embeddings of a causal text tower."""
        return self.model.token_embedding(tokens)

    def encode_embedded(self, embedded: Tensor, ends: Tensor) -> Tensor:
        """Token embeddings [n, L, W] of texts whose last tokens are at `ends` [n] -> [n, D] raw
        features, differentiable.

        For a causal text tower; L may be shorter than its context.
        """
        model, length = self.model, embedded.shape[1]
        hidden = model.transformer(
            embedded + model.positional_embedding[:length],
            attn_mask=model.attn_mask[:length, :length],
        )
        return model.ln_final(hidden)[torch.arange(len(embedded)), ends] @ model.text_projection

    def tokenize(self, texts: list[str], length: int | None = None) -> Tensor:
        """Texts -> [n, L] token ids of open_clip's byte-pair vocabulary, 0 after the end; longer
        texts are cut, as CLIP does.

        L is the tower's context length, or `length` (to find out what would be cut).
        """
        return tokenizer()(texts, context_length=length or self.context_length)


@cache
def tokenizer() -> open_clip.SimpleTokenizer:
    """open_clip's byte-pair tokenizer; building it takes a quarter of a second, so once a
    process.
    """
    return open_clip.SimpleTokenizer()


def load_clip(config: ClipConfig) -> Clip:
    """Builds the model and loads its weights. Raises UserError on an unknown name, tag or
    unreadable file.
    """
    model_config, tag = find_architecture(config)
    model = build_model(model_config)
    if config.pretrained == RANDOM:
        pass
    elif tag:
        load_weights(model, download(tag, config))
    elif Path(config.pretrained).is_file():
        load_weights(model, config.pretrained)
    else:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(config.name)) or "none"
        raise UserError(
            f"clip.pretrained={config.pretrained} is neither a file nor a tag of {config.name}"
            f" (tags: {known})"
        )
    mean = tag.get("mean") or open_clip.OPENAI_DATASET_MEAN
    std = tag.get("std") or open_clip.OPENAI_DATASET_STD
    return frozen_clip(model, model_config, mean, std)


def find_architecture(config: ClipConfig) -> tuple[dict, dict]:
    """The model config and open_clip's entry of the weights ({} if they are a file or random)."""
    model_config = find_model_config(config.name)
    tag = open_clip.get_pretrained_cfg(Path(config.name).stem, config.pretrained)
    if tag.get("quick_gelu"):
        model_config["quick_gelu"] = True
    return model_config, tag


def build_outline(config: ClipConfig) -> nn.Module:
    """The model on torch's meta device: shapes without memory, so that sizes can be told without
    weights.
    """
    with torch.device("meta"):
        model = build_model(find_architecture(config)[0])
    return check_vit(model)


def check_vit(model: nn.Module) -> nn.Module:
    """The model itself. Raises UserError if its image tower is none that yields patch tokens."""
    if not hasattr(model.visual, "output_tokens") or not hasattr(model.visual, "grid_size"):
        raise UserError(
            "this CLIP's image tower is not an open_clip VisionTransformer: take a ViT model"
        )
    return model


def frozen_clip(model: nn.Module, model_config: dict, mean: tuple, std: tuple) -> Clip:
    """Wraps a built model: eval mode, no gradients, patch tokens switched on."""
    check_vit(model).visual.output_tokens = True
    return Clip(model.eval().requires_grad_(False), model_config, tuple(mean), tuple(std))


def find_model_config(name: str) -> dict:
    """open_clip's config dict of a built-in model, or the one in a JSON file."""
    if name.endswith(".json"):
        try:
            return read_json(Path(name), "give a JSON file, or a name such as ViT-B-16")
        except UserError as error:
            raise UserError(
                f"clip.name={name} is not a readable open_clip model config"
                f" ({without(Path(name), error)})"
            ) from error
    config = open_clip.get_model_config(name)
    if config is None:
        raise UserError(
            f"clip.name={name} is not an open_clip model (python -c 'import open_clip;"
            " print(open_clip.list_models())')"
        )
    return config


def build_model(model_config: dict) -> nn.Module:
    """Builds an open_clip CLIP from its config dict, always with the same weights (seed 0), leaving
    torch's RNG alone.

    A fixed seed makes `pretrained=random` mean one model in every process of a job.
    """
    check_tokenizer(model_config)
    check_config(model_config)
    arguments = copy.deepcopy(model_config)
    custom_text = arguments.pop("custom_text", False)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**arguments)
    except Exception as error:  # open_clip and torch assert, and raise whatever odd sizes lead to
        raise UserError(
            f"the open_clip model config cannot be built ({type(error).__name__}: {reason(error)}):"
            " take one of open_clip's, such as ViT-B-16"
        ) from error


@dataclass(frozen=True)
class ModelFile:
    """What an open_clip model config must have; what is none of these it may not have."""

    embed_dim: Size
    vision_cfg: CLIPVisionCfg
    text_cfg: CLIPTextCfg
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
    vision = model_config.get("vision_cfg")
    if isinstance(vision, dict) and (
        vision.get("timm_model_name") or isinstance(vision.get("layers"), list)
    ):
        raise UserError(
            "this CLIP's image tower is not an open_clip VisionTransformer: take a ViT model"
        )
    known = {field.name for field in fields(ModelFile)}
    unlike = misfit(json.dumps(model_config), ModelFile) or next(
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
        text.get("vocab_size", VOCABULARY) + text.get("context_length", 77)
    )


def check_tokenizer(model_config: dict) -> None:
    """Raises UserError if the text tower reads the tokens of another tokenizer than CLIP's own,
    whose ids would mean nothing to it, or is a model of the Hugging Face hub, which would be
    fetched from there.
    """
    text = model_config.get("text_cfg")
    text = text if isinstance(text, dict) else {}
    if other := text.get("hf_model_name"):
        raise UserError(
            f"this CLIP's text tower is a Hugging Face model ({other}): take an open_clip ViT with"
            " CLIP's own, such as ViT-B-16"
        )
    if other := text.get("hf_tokenizer_name") or text.get("tokenizer_kwargs"):
        raise UserError(
            f"this CLIP's text tower needs another tokenizer ({other}): take an open_clip ViT with"
            " CLIP's own, such as ViT-B-16"
        )
    if isinstance(size := text.get("vocab_size"), int) and size < VOCABULARY:
        raise UserError(
            f"this CLIP's text tower knows {size:,} tokens, CLIP's tokenizer has {VOCABULARY:,}:"
            " take an open_clip ViT, such as ViT-B-16"
        )


def load_weights(model: nn.Module, path: str) -> None:
    """Loads a full CLIP state dict, strictly; pickles are refused except for plain tensors
    (weights_only).
    """
    try:
        open_clip.load_checkpoint(model, path, strict=True, weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} does not hold the weights of this CLIP model ({reason(error)}): give the right"
            " file"
        ) from error


def download(tag: dict, config: ClipConfig) -> str:
    """The local path of a released model's weights, fetched on first use."""
    try:
        return download_pretrained(tag)
    except Exception as error:
        raise UserError(
            f"the weights {config.pretrained} of {config.name} could not be downloaded"
            f" ({type(error).__name__}): on a machine without internet give clip.pretrained=<path"
            " of the weights file>"
        ) from error


def patches_and_global(visual: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 1: [B, 3, S, S] normalised pixels -> patch features [B, P, D] and global feature [B, D],
    both raw.

    Patch features are the final block's tokens through ln_post and proj, like the class token's
    (MKT's choice).
    """
    pooled, tokens = visual(pixels)
    return tokens @ visual.proj, pooled


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """[B, 3, S, S] uint8 -> float with CLIP's own mean and std (shape [3]), in their dtype."""
    return (images.to(mean.dtype) / 255 - mean[:, None, None]) / std[:, None, None]
