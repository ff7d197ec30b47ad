"""open_clip, as far as it is used: this is the only file that imports it."""

import copy
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

MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


def model_names() -> list[str]:
    """open_clip's built-in models."""
    return open_clip.list_models()


def model_config(name: str) -> dict | None:
    """The config dict of a built-in model."""
    return open_clip.get_model_config(name)


def released_weights(name: str, tag: str) -> dict:
    """open_clip's entry of released weights, {} if there is none."""
    return open_clip.get_pretrained_cfg(name, tag)


def tags_of(name: str) -> list[str]:
    """The tags of a model's released weights."""
    return open_clip.list_pretrained_tags_by_model(name)


def download(entry: dict) -> str:
    """The local path of released weights, fetched on first use."""
    return download_pretrained(entry)


def build(model_config: dict) -> nn.Module:
    """The model of a config, with the weights of seed 0; torch's RNG is left alone."""
    arguments = copy.deepcopy(model_config)
    custom_text = arguments.pop("custom_text", False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
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


def load_checkpoint(model: nn.Module, path: str) -> None:
    """Loads a full state dict, strictly; pickles only of plain tensors."""
    open_clip.load_checkpoint(model, path, strict=True, weights_only=True)


def own_tokenizer() -> open_clip.SimpleTokenizer:
    """CLIP's own byte-pair tokenizer."""
    return open_clip.SimpleTokenizer()


def hub_tokenizer(name: str, text_cfg: dict) -> Any:
    """open_clip's wrapper of a tokenizer of the Hugging Face hub, from the local cache or a folder;
    nothing is fetched, and no code of theirs runs. Raises ImportError without `transformers`,
    OSError if it is not there.
    """
    from huggingface_hub import snapshot_download

    folder = name if Path(name).is_dir() else snapshot_download(name, local_files_only=True)
    return open_clip.tokenizer.HFTokenizer(
        folder,
        context_length=text_cfg.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH),
        local_files_only=True,
        trust_remote_code=False,
        **(text_cfg.get("tokenizer_kwargs") or {}),
    )
