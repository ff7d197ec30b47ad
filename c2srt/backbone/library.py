"""open_clip, as far as it is used: this is the only file that imports it."""

import copy
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from c2srt.lazily import lazily

# Most of the seconds that open_clip takes to load, for what only timm's models and torch.compile
# need.
UNUSED = {
    "torch._dynamo.utils": ("is_compile_supported",),
    "timm": (),
    "timm.layers": ("RotAttentionPool2d", "AttentionPool2d", "Mlp", "to_2tuple"),
}
with lazily(UNUSED):
    import open_clip
    from open_clip import CLIPTextCfg as TextCfg, CLIPVisionCfg as VisionCfg
    from open_clip.pretrained import download_pretrained

__all__ = ["TextCfg", "VisionCfg"]

SLIPS = {"ViTamin-XL-384": {"image_size": 384}}
"""What open_clip's config has wrong: of 256 pixels, as it says, its model of timm's takes none."""
MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


def model_names() -> list[str]:
    """open_clip's built-in models."""
    return open_clip.list_models()


def model_config(name: str) -> dict | None:
    """The config dict of a built-in model."""
    config = open_clip.get_model_config(name)
    return config and config | {"vision_cfg": config["vision_cfg"] | SLIPS.get(name, {})}


def is_timm_model(name: str, files: tuple[str, ...]) -> bool:
    """Whether timm has an architecture of exactly this name, in one of these files of its own."""
    import timm  # takes most of a second, for these models alone

    known = isinstance(name, str) and name in timm.list_models(name)
    return known and timm.models.is_model_in_modules(name, files)


def released_weights(name: str, tag: str) -> dict:
    """open_clip's entry of released weights, {} if there is none."""
    return open_clip.get_pretrained_cfg(name, tag)


def tags_of(name: str) -> list[str]:
    """The tags of a model's released weights."""
    return open_clip.list_pretrained_tags_by_model(name)


def normalisation(name: str, entry: dict) -> tuple[tuple, tuple]:
    """Mean and deviation of the pixels that released weights were trained with; without an entry
    (random weights, a file) what all of the model's released weights share, else CLIP's.
    """
    known = {normalisation_of(entry)} if entry else normalisations(name)
    return known.pop() if len(known) == 1 else (MEAN, STD)


def normalisations(name: str) -> set[tuple[tuple, tuple]]:
    """Those of a model's released weights."""
    return {normalisation_of(released_weights(name, tag)) for tag in tags_of(name)}


def normalisation_of(entry: dict) -> tuple[tuple, tuple]:
    return tuple(entry.get("mean") or MEAN), tuple(entry.get("std") or STD)


def download(entry: dict) -> str:
    """The local path of released weights, fetched on first use."""
    return download_pretrained(entry)


def build(model_config: dict) -> nn.Module:
    """The model of a config, with the weights of seed 0; torch's RNG is left alone."""
    arguments = copy.deepcopy(model_config)
    custom_text = arguments.pop("custom_text", False) or "hf_config" in arguments["text_cfg"]
    with torch.random.fork_rng(devices=[]), hub_text(arguments["text_cfg"]) as text:
        torch.manual_seed(0)
        arguments["text_cfg"] = text
        return (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**arguments)


def outline(model_config: dict) -> nn.Module:
    """The model of a config on torch's meta device: shapes without memory."""
    with torch.device("meta"), Unvalued():
        return build(model_config)


class Unvalued(TorchFunctionMode):
    """Values that nobody will see are not computed: torch would load its compiler to find the
    shapes of some on the meta device.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if func is Tensor.triu_ or func is Tensor.mul and isinstance(args[1], float):
            return args[0]
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)


@contextmanager
def hub_text(text_cfg: dict) -> Iterator[dict]:
    """A text_cfg as open_clip takes it: of a tower of the hub it wants a folder with its config,
    instead of which ours has `hf_config`.
    """
    if "hf_config" not in text_cfg:
        yield text_cfg
        return
    with tempfile.TemporaryDirectory() as folder:
        config = text_cfg.pop("hf_config")
        Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
        yield text_cfg | {"hf_model_name": folder, "hf_model_pretrained": False}


def load_checkpoint(model: nn.Module, path: str) -> None:
    """Loads a full state dict, strictly; pickles only of plain tensors."""
    open_clip.load_checkpoint(model, path, strict=True, weights_only=True)


def own_tokenizer() -> open_clip.SimpleTokenizer:
    """CLIP's own byte-pair tokenizer."""
    return open_clip.SimpleTokenizer()


def hub_folder(name: str) -> str:
    """The folder of a repository of the Hugging Face hub: `name` itself if it is one, or the one
    in the local cache; nothing is fetched. Raises OSError if it is not there.
    """
    from huggingface_hub import snapshot_download

    return name if Path(name).is_dir() else snapshot_download(name, local_files_only=True)


def hub_tokenizer(name: str, text_cfg: dict) -> Any:
    """open_clip's wrapper of a tokenizer of the hub; no code of theirs runs. Raises ImportError
    without `transformers`, OSError if it is not there.
    """
    return open_clip.tokenizer.HFTokenizer(
        hub_folder(name),
        context_length=text_cfg.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH),
        local_files_only=True,
        trust_remote_code=False,
        **(text_cfg.get("tokenizer_kwargs") or {}),
    )
