"""Text towers that are models of the Hugging Face hub: their architecture, which the model config
then holds as `text_cfg.hf_config`, so that an export needs no hub. Nothing is downloaded here.
"""

from pathlib import Path
from typing import Any

from c2srt.backbone import library
from c2srt.errors import UserError
from c2srt.opened import read_json
from c2srt.shown import shown

TYPES = ("bert", "m2m_100", "mt5", "roberta", "xlm-roberta")
"""Those that open_clip knows, as config.json's `model_type`."""
WORDS = ("model_type", "hidden_act", "activation_function", "dense_act_fn", "feed_forward_proj")
"""Keys whose value is a word. Others with words say how a model is stored or run, some of them what
code is fetched for it (`attn_implementation`), and what lies in lists is no architecture.
"""
MOST, MOST_LAYERS = 1 << 20, 256
ADVICE = "or take an open_clip ViT with CLIP's own, such as ViT-B-16"


def with_text_tower(model_config: dict) -> dict:
    """The config, with the architecture of a text tower that it names by the hub's name or by a
    folder. Raises UserError if that is not there, or is of a type that is not known.
    """
    text = model_config.get("text_cfg")
    if not isinstance(text, dict) or "hf_config" in text:
        return model_config
    name = text.get("hf_model_name")
    if not name or not isinstance(name, str):
        return model_config
    return model_config | {"text_cfg": text | {"hf_config": architecture(name)}}


def architecture(name: str) -> dict:
    """The numbers, words and yes or no of a model's config.json. Raises UserError."""
    try:
        folder = library.hub_folder(name)
    except (OSError, ValueError) as error:  # the latter: such a name cannot be
        raise UserError(
            f"{named(name)}, which is not in the hub's cache here: get it with `hf download {name}"
            f" --exclude '*.bin' --exclude '*.safetensors'` (its weights come with the CLIP's),"
            f" {ADVICE}"
        ) from error
    content = read_json(Path(folder) / "config.json", f"get it with `hf download {name}`")
    found = {key: value for key, value in content.items() if is_kept(key, value)}
    check_architecture(name, found)
    return found


def named(name: Any) -> str:
    return f"this CLIP's text tower is a Hugging Face model ({shown(name)})"


def is_kept(key: str, value: object) -> bool:
    """Whether an entry is part of an architecture: no code, no other files, no nested settings."""
    if isinstance(value, str):
        return key in WORDS
    return not key.startswith("_") and isinstance(value, int | float | None)


def check_architecture(name: Any, config: Any) -> None:
    """Raises UserError unless it is of a type that open_clip knows, and of a size that exists."""
    if not isinstance(config, dict):
        raise UserError(f"{named(name)} whose architecture (hf_config) is not there: {ADVICE[3:]}")
    if config.get("model_type") not in TYPES:
        raise UserError(
            f"{named(name)} of the type {shown(config.get('model_type'))}, and open_clip knows"
            f" {', '.join(TYPES)}: {ADVICE[3:]}"
        )
    for key, value in config.items():
        most = MOST_LAYERS if "layers" in key else MOST
        if not is_kept(key, value) or (isinstance(value, int) and abs(value) > most):
            raise UserError(f"{named(name)} with {shown(key)}={shown(value, 30)}: {ADVICE[3:]}")
