"""Where a CLIP comes from: open_clip's list and its released weights, a model config and a file, or
a folder as `hf download` makes of an open_clip model. Weights of a tag are the only thing that is
fetched.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Len

from c2srt.backbone import library
from c2srt.backbone.check import check_config, check_towers
from c2srt.backbone.config import FOLDER_CONFIG, RANDOM, ClipConfig
from c2srt.backbone.hub_text import with_text_tower
from c2srt.errors import UserError
from c2srt.hints import Command
from c2srt.opened import read_json, without

HUB = "hf-hub:"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors")
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json")


Three = Annotated[list[float], Len(3, 3)]


@dataclass(frozen=True)
class Preprocessing:
    """What a folder's config must say of pixels."""

    mean: Three
    std: Three


@dataclass(frozen=True)
class FolderFile:
    """What a folder's config must have."""

    model_cfg: dict
    preprocess_cfg: Preprocessing


@dataclass(frozen=True)
class Source:
    """What a CLIP is built of. `entry` is open_clip's of released weights, or says as much of a
    folder's; {} for a file's and random ones.
    """

    config: ClipConfig
    model_config: dict
    entry: dict
    folder: Path | None = None

    @property
    def tokenizer(self) -> Path | None:
        """The folder that brings the model's tokenizer of the hub, if one does."""
        files = [self.folder / name for name in TOKENIZERS] if self.folder else []
        return self.folder if any(file.is_file() for file in files) else None

    @property
    def normalisation(self) -> tuple[tuple, tuple]:
        """Mean and deviation of the pixels."""
        return library.normalisation(self.config.name, self.entry)

    def weights(self) -> str | None:
        """The path of the weights, fetched on first use if they are a tag's; None for random ones.
        Raises UserError if there are none.
        """
        given = self.config.pretrained
        if given == RANDOM:
            return None
        if self.entry and not self.folder:
            return download(self.entry, self.config)
        if Path(given).is_file():
            return given
        if self.folder and given == ClipConfig().pretrained:
            return str(weights_in(self.folder))
        known = ", ".join(library.tags_of(self.config.name)) or "none"
        raise UserError(
            f"clip.pretrained={given} is neither a file nor a tag of {self.config.name}"
            f" (tags: {known})"
        )


def find_source(config: ClipConfig) -> Source:
    """Raises UserError if there is no such model, or it is none that is taken."""
    folder = folder_of(config.name)
    if folder:
        content = read_json(folder / FOLDER_CONFIG, "get it again with `hf download`", FolderFile)
        model_config, entry = content["model_cfg"], content["preprocess_cfg"]
    else:
        model_config = find_model_config(config.name)
        entry = library.released_weights(Path(config.name).stem, config.pretrained)
    if entry.get("quick_gelu"):
        model_config["quick_gelu"] = True
    check_towers(model_config)
    model_config = with_text_tower(model_config)
    check_config(model_config)
    return Source(config, model_config, entry, folder)


def folder_of(name: str) -> Path | None:
    """The folder that a name means: itself, or that of `hf-hub:owner/model` in the hub's cache.
    Raises UserError if the latter is not there.
    """
    if not name.startswith(HUB):
        return Path(name) if (Path(name) / FOLDER_CONFIG).is_file() else None
    repository = name.removeprefix(HUB)
    try:
        return Path(library.hub_folder(repository))
    except (OSError, ValueError) as error:
        raise UserError(
            f"clip.name={name} is not in the hub's cache here: get it with `hf download"
            f" {repository}`"
        ) from error


def weights_in(folder: Path) -> Path:
    """The weights that a folder brings. Raises UserError if it brings none."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"{folder} has no weights ({', '.join(WEIGHTS)}): get them, or give"
        " clip.pretrained=<path of the weights file>"
    )


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
    config = library.model_config(name)
    if config is None:
        raise UserError(
            f"clip.name={name} is not an open_clip model (`{Command('backbones')}` lists them), nor"
            f" a folder with {FOLDER_CONFIG}"
        )
    return config


def download(tag: dict, config: ClipConfig) -> str:
    """The local path of a released model's weights, fetched on first use."""
    try:
        return library.download(tag)
    except Exception as error:
        raise UserError(
            f"the weights {config.pretrained} of {config.name} could not be downloaded"
            f" ({type(error).__name__}): on a machine without internet give clip.pretrained=<path"
            " of the weights file>"
        ) from error
