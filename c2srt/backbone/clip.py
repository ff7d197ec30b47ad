"""The frozen CLIP that everything starts from, built by open_clip.

Shapes: B images, S pixels a side, P patches, D joint width, n texts, L tokens.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from c2srt.backbone import library
from c2srt.backbone.check import check_config
from c2srt.backbone.config import ClipConfig
from c2srt.backbone.protocol import Backbone
from c2srt.backbone.source import find_source
from c2srt.backbone.timm_vit import TimmTower
from c2srt.backbone.tokens import Tokenizer, tokenizer_of
from c2srt.backbone.tower import BlockTower, ImageEncoder
from c2srt.backbone.vit import VitTower
from c2srt.errors import UserError
from c2srt.opened import reason


@dataclass
class Clip(Backbone):
    """A loaded CLIP in eval mode with frozen parameters, and what is needed to build and feed it
    again.
    """

    model: Any
    """open_clip's, a module without types, whose image tower is an `ImageTower`."""
    tokenizer: Tokenizer
    model_config: dict
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def tower(self) -> BlockTower:
        return self.model.visual

    @property
    def images(self) -> ImageEncoder:
        """The image half; it does not hold the text tower."""
        return ImageEncoder(self.tower, self.mean, self.std)

    @property
    def image_size(self) -> int:
        return self.tower.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches."""
        return self.tower.grid

    @property
    def patches(self) -> int:
        rows, columns = self.grid
        return rows * columns

    @property
    def width(self) -> int:
        """Joint width D of image and text features."""
        return self.tower.width

    @property
    def logit_scale(self) -> float:
        """exp of CLIP's learned logit scale: 100 for the first CLIP models."""
        return self.model.logit_scale.exp().item()

    @property
    def logit_bias(self) -> float | None:
        """Of a CLIP that was trained with a sigmoid for each pair (SigLIP), learned, too."""
        bias = self.model.logit_bias
        return None if bias is None else bias.item()

    @property
    def context_length(self) -> int:
        return self.model_config["text_cfg"].get("context_length", 77)

    @cached_property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 over the model config, preprocessing, every weight,
        and the tokenizer if it is not CLIP's own.
        """
        described = [self.model_config, self.mean, self.std]
        if self.tokenizer.hash is not None:
            described.append(self.tokenizer.hash)
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(
                tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
            )
        return digest.hexdigest()[:16]

    def state_dict(self) -> dict[str, Tensor]:
        """Every weight under open_clip's name."""
        visual = self.tower.clip_state(self.tower.state_dict())
        return visual | self.text_state()

    def text_state(self) -> dict[str, Tensor]:
        """What is not the image tower's: the text tower and the logit scale."""
        return {
            name: tensor
            for name, tensor in self.model.state_dict().items()
            if not name.startswith("visual.")
        }

    def to(self, device: torch.device | str) -> "Clip":
        """Moves both towers; returns itself."""
        self.model.to(device)
        return self

    @property
    def causal_text(self) -> bool:
        """Whether the text tower is the first CLIP models' own: causal, read out at the end-of-text
        token, the highest id.
        """
        tower = self.text_tower
        pooling = getattr(tower, "pool_type", getattr(tower, "text_pool_type", None))
        causal = (
            self.tokenizer.hash is None
            and getattr(tower, "attn_mask", None) is not None
            and getattr(tower, "cls_emb", None) is None
            and pooling == "argmax"
        )
        return causal and isinstance(tower.text_projection, Tensor)

    @property
    def text_tower(self) -> Any:
        """open_clip's: a module of the model, or the model itself, which then has its parts."""
        return getattr(self.model, "text", self.model)

    @property
    def device(self) -> torch.device:
        """Where the text tower is."""
        return self.model.logit_scale.device

    def encode_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.images.encode(images)

    def encode_texts(self, texts: list[str]) -> Tensor:
        return self.encode_text(self.tokenize(texts).to(self.device))

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
        return self.text_tower.token_embedding(tokens)

    def encode_embedded(self, embedded: Tensor, ends: Tensor) -> Tensor:
        tower, length = self.text_tower, embedded.shape[1]
        hidden = tower.transformer(
            embedded + tower.positional_embedding[:length],
            attn_mask=tower.attn_mask[:length, :length],
        )
        return tower.ln_final(hidden)[torch.arange(len(embedded)), ends] @ tower.text_projection

    def tokenize(self, texts: list[str], length: int | None = None) -> Tensor:
        """Texts -> [n, L] ids of the model's own tokenizer, padded; longer texts are cut, as CLIP
        does. L is the tower's context length, or `length`.
        """
        return self.tokenizer(texts, length or self.context_length)

    def count_tokens(self, texts: list[str]) -> list[int]:
        return self.tokenizer.count(texts)


def load_clip(config: ClipConfig) -> Clip:
    """Builds the model and loads its weights. Raises UserError on an unknown name, tag or
    unreadable file.
    """
    source = find_source(config)
    tokenizer = tokenizer_of(source.model_config, source.tokenizer)
    model = build_model(source.model_config)
    if weights := source.weights():
        load_weights(model, weights)
    return frozen_clip(model, tokenizer, source.model_config, *source.normalisation)


def files_of(config: ClipConfig) -> list[str] | None:
    """The files that `load_clip` reads besides open_clip's own; None where they are not all known:
    of a folder, or with a tokenizer of the hub. Raises UserError as `load_clip` does.
    """
    source = find_source(config)
    if source.folder or source.model_config["text_cfg"].get("hf_tokenizer_name"):
        return None
    named = [config.name, source.weights() or config.pretrained]
    return [name for name in named if Path(name).is_file()]


def build_outline(config: ClipConfig) -> nn.Module:
    """The model on torch's meta device: shapes without memory, so that sizes can be told without
    weights. Its `visual` is an `ImageTower`.
    """
    source = find_source(config)
    tokenizer_of(source.model_config, source.tokenizer)
    return with_tower(build_model(source.model_config, library.outline))


def frozen_clip(
    model: nn.Module, tokenizer: Tokenizer, model_config: dict, mean: tuple, std: tuple
) -> Clip:
    """Wraps a built model, whose image tower becomes an `ImageTower`: eval mode, no gradients."""
    model = with_tower(model).eval().requires_grad_(False)
    return Clip(model, tokenizer, model_config, tuple(mean), tuple(std))


def with_tower(model: nn.Module) -> nn.Module:
    """The model with an `ImageTower` made of its image tower. Raises UserError if there is none
    for it.
    """
    visual: Any = model.visual
    if hasattr(visual, "trunk"):
        model.visual = TimmTower(visual)
    elif hasattr(visual, "output_tokens") and hasattr(visual, "grid_size"):
        model.visual = VitTower(visual)
    else:
        raise UserError(
            "this CLIP's image tower is not an open_clip VisionTransformer: take a ViT model"
        )
    height, width = visual.image_size
    if height != width:
        raise UserError(
            f"this CLIP's image tower takes pictures of {height} × {width} pixels, and all are"
            " square here: take another model"
        )
    return model


def build_model(
    model_config: dict, build: Callable[[dict], nn.Module] = library.build
) -> nn.Module:
    """Builds an open_clip CLIP from its config dict, always with the same weights (seed 0), leaving
    torch's RNG alone. Raises UserError on a config that is not taken or cannot be built.

    A fixed seed makes `pretrained=random` mean one model in every process of a job.
    """
    check_config(model_config)
    try:
        return build(model_config)
    except Exception as error:  # open_clip and torch assert, and raise whatever odd sizes lead to
        raise UserError(
            f"the open_clip model config cannot be built ({type(error).__name__}: {reason(error)}):"
            " take one of open_clip's, such as ViT-B-16"
        ) from error


def load_weights(model: nn.Module, path: str) -> None:
    """Loads a full CLIP state dict, strictly; pickles are refused except for plain tensors
    (weights_only).
    """
    try:
        library.load_checkpoint(model, path)
    except Exception as error:
        raise UserError(
            f"{path} does not hold the weights of this CLIP model ({reason(error)}): give the right"
            " file"
        ) from error
