"""The frozen CLIP that everything starts from, through open_clip (this is the only file that imports it).

Shapes: B images, P patches, D joint width.
"""

import copy
import hashlib
import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import open_clip
import torch
from open_clip.pretrained import download_pretrained
from torch import Tensor, nn

from c2srt.errors import UserError

RANDOM = "random"
VOCABULARY = 49408  # tokens of CLIP's own byte-pair tokenizer


@dataclass
class ClipConfig:
    """Which CLIP: `name` an open_clip model or the path of a model config (.json); `pretrained` an open_clip tag, the
    path of a weights file (safetensors, or a tensors-only torch file), or `random` (seeded; tests and benchmarks)."""

    name: str = "ViT-B-16"
    pretrained: str = "openai"


@dataclass
class Clip:
    """A loaded CLIP in eval mode with frozen parameters, and what is needed to build and feed it again."""

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
        """First 16 hex digits of the SHA-256 over the model config, preprocessing and every weight."""
        digest = hashlib.sha256(json.dumps([self.model_config, self.mean, self.std], sort_keys=True).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    @property
    def causal_text(self) -> bool:
        """Whether the text tower is the first CLIP models' own: causal, read out at the end-of-text token, the highest id."""
        model = self.model
        causal = getattr(model, "attn_mask", None) is not None and getattr(model, "text_pool_type", None) == "argmax"
        return causal and isinstance(model.text_projection, Tensor)

    @property
    def device(self) -> torch.device:
        """Where the text tower is."""
        return self.model.logit_scale.device

    @torch.no_grad()
    def encode_text(self, tokens: Tensor) -> Tensor:
        """[n, L] token ids -> [n, D] raw text features (not normalised).

        A causal tower never looks past the end-of-text token, so the padding behind the longest text is cut: the same
        features, about six times cheaper for category names.
        """
        if not self.causal_text:
            return self.model.encode_text(tokens)
        ends = tokens.argmax(1)
        return self.encode_embedded(self.embed_tokens(tokens[:, : int(ends.max()) + 1]), ends)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """[…] token ids -> […, W] embeddings of a causal text tower."""
        return self.model.token_embedding(tokens)

    def encode_embedded(self, embedded: Tensor, ends: Tensor) -> Tensor:
        """Token embeddings [n, L, W] of texts whose last tokens are at `ends` [n] -> [n, D] raw features, differentiable.

        For a causal text tower; L may be shorter than its context.
        """
        model, length = self.model, embedded.shape[1]
        hidden = model.transformer(embedded + model.positional_embedding[:length], attn_mask=model.attn_mask[:length, :length])
        return model.ln_final(hidden)[torch.arange(len(embedded)), ends] @ model.text_projection

    def tokenize(self, texts: list[str], length: int | None = None) -> Tensor:
        """Texts -> [n, L] token ids of open_clip's byte-pair vocabulary, 0 after the end; longer texts are cut, as CLIP does.

        L is the tower's context length, or `length` (to find out what would be cut).
        """
        return tokenizer()(texts, context_length=length or self.context_length)


@cache
def tokenizer() -> open_clip.SimpleTokenizer:
    """open_clip's byte-pair tokenizer; building it takes a quarter of a second, so once a process."""
    return open_clip.SimpleTokenizer()


def load_clip(config: ClipConfig) -> Clip:
    """Builds the model and loads its weights. Raises UserError on an unknown name, tag or unreadable file."""
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
        raise UserError(f"clip.pretrained={config.pretrained} is neither a file nor a tag of {config.name} (tags: {known})")
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
    """The model on torch's meta device: shapes without memory, so that sizes can be told without weights."""
    with torch.device("meta"):
        model = build_model(find_architecture(config)[0])
    return check_vit(model)


def check_vit(model: nn.Module) -> nn.Module:
    """The model itself. Raises UserError if its image tower is none that yields patch tokens."""
    if not hasattr(model.visual, "output_tokens") or not hasattr(model.visual, "grid_size"):
        raise UserError("this CLIP's image tower is not an open_clip VisionTransformer: take a ViT model")
    return model


def frozen_clip(model: nn.Module, model_config: dict, mean: tuple, std: tuple) -> Clip:
    """Wraps a built model: eval mode, no gradients, patch tokens switched on."""
    check_vit(model).visual.output_tokens = True
    return Clip(model.eval().requires_grad_(False), model_config, tuple(mean), tuple(std))


def find_model_config(name: str) -> dict:
    """open_clip's config dict of a built-in model, or the one in a JSON file."""
    if name.endswith(".json"):
        try:
            return json.loads(Path(name).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise UserError(f"clip.name={name} is not a readable open_clip model config: {error}") from error
    config = open_clip.get_model_config(name)
    if config is None:
        raise UserError(f"clip.name={name} is not an open_clip model (python -c 'import open_clip; print(open_clip.list_models())')")
    return config


def build_model(model_config: dict) -> nn.Module:
    """Builds an open_clip CLIP from its config dict, always with the same weights (seed 0), leaving torch's RNG alone.

    A fixed seed makes `pretrained=random` mean one model in every process of a job.
    """
    check_tokenizer(model_config)
    arguments = copy.deepcopy(model_config)
    custom_text = arguments.pop("custom_text", False)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**arguments)
    except (TypeError, KeyError) as error:
        raise UserError(f"the open_clip model config cannot be built: {error}") from error


def check_tokenizer(model_config: dict) -> None:
    """Raises UserError if the text tower reads the tokens of another tokenizer than CLIP's own, whose ids would mean nothing to it,
    or is a model of the Hugging Face hub, which would be fetched from there."""
    text = model_config.get("text_cfg")
    text = text if isinstance(text, dict) else {}
    if other := text.get("hf_model_name"):
        raise UserError(f"this CLIP's text tower is a Hugging Face model ({other}): take an open_clip ViT with CLIP's own, such as ViT-B-16")
    if other := text.get("hf_tokenizer_name") or text.get("tokenizer_kwargs"):
        raise UserError(f"this CLIP's text tower needs another tokenizer ({other}): take an open_clip ViT with CLIP's own, such as ViT-B-16")
    if (size := text.get("vocab_size", VOCABULARY)) < VOCABULARY:
        raise UserError(f"this CLIP's text tower knows {size:,} tokens, CLIP's tokenizer has {VOCABULARY:,}: take an open_clip ViT, such as "
                        "ViT-B-16")


def load_weights(model: nn.Module, path: str) -> None:
    """Loads a full CLIP state dict, strictly; pickles are refused except for plain tensors (weights_only)."""
    try:
        open_clip.load_checkpoint(model, path, strict=True, weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} does not hold the weights of this CLIP model: {reason}") from error


def download(tag: dict, config: ClipConfig) -> str:
    """The local path of a released model's weights, fetched on first use."""
    try:
        return download_pretrained(tag)
    except Exception as error:
        raise UserError(f"the weights {config.pretrained} of {config.name} could not be downloaded ({type(error).__name__}): "
                        "on a machine without internet give clip.pretrained=<path of the weights file>") from error


def patches_and_global(visual: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 1: [B, 3, S, S] normalised pixels -> patch features [B, P, D] and global feature [B, D], both raw.

    Patch features are the final block's tokens through ln_post and proj, like the class token's (MKT's choice).
    """
    pooled, tokens = visual(pixels)
    return tokens @ visual.proj, pooled


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """[B, 3, S, S] uint8 -> float with CLIP's own mean and std (shape [3]), in their dtype."""
    return (images.to(mean.dtype) / 255 - mean[:, None, None]) / std[:, None, None]
