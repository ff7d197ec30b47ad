"""Text features of every category: the frozen text tower over an ensemble of prompts (eq. 3, 24).

The feature of a category is the mean over the templates of its L2-normalised prompt embeddings,
L2-normalised again. Display names enter the prompts as they are (case and punctuation kept), only
underscores become spaces.

On disk: `text.safetensors` {"features": [C, D] float32} in vocabulary order, and `text.json`, what
it was made from. Letters: C categories, D joint width.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from c2srt.artefact import (
    FILES,
    is_current,
    is_recorded,
    remove_unfinished,
    tidy,
    unfinished,
    vouch,
    withdraw,
    writing,
)
from c2srt.backbone.clip import Clip, load_clip
from c2srt.backbone.ensemble import count_cut, embed
from c2srt.backbone.prompts import clean
from c2srt.errors import UserError
from c2srt.files import hash_of, whole_file
from c2srt.hints import Command
from c2srt.opened import read_json, read_tensors, wrong
from c2srt.progress import Progress
from c2srt.shown import shown
from c2srt.text_config import PROVENANCE, Config
from c2srt.vocabulary import Vocabulary, check_same_vocabulary, load_vocabulary

log = logging.getLogger(__name__)

FEATURES, UNFINISHED = "text.safetensors", "unfinished"
MADE_BY = Command("text")


@dataclass(frozen=True)
class MadeFrom:
    """What text.json must say of what the features were made from."""

    vocabulary: str
    clip: str
    templates: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Provenance:
    """What text.json must have."""

    made_from: MadeFrom
    files: dict[str, str]


@dataclass(frozen=True)
class Change:
    """What becomes of the features [C, D] before they are written, and what the record says of
    it.
    """

    made_from: dict
    of: Callable[[Tensor], Tensor]


def run(config: Config, change: Change | None = None) -> None:
    """Writes the text features, or says that they are up to date. Raises UserError on bad input."""
    vocabulary, out, templates = (
        load_vocabulary(Path(config.shards)),
        Path(config.out),
        config.chosen_templates,
    )
    clip = load_clip(config.clip)
    made_from = {"vocabulary": vocabulary.hash, "clip": clip.hash, "templates": templates}
    made_from |= change.made_from if change else {}
    if is_current(out / PROVENANCE, made_from, [FEATURES]):
        tidy(out, UNFINISHED)
        log.info(f"{out / FEATURES} is up to date")
        return
    with writing(out):
        write(config, vocabulary, clip, made_from, change)


def write(
    config: Config, vocabulary: Vocabulary, clip: Clip, made_from: dict, change: Change | None
) -> None:
    """Embeds the prompts, `batch` at a time, saved after every `block` names, and writes the two
    files.
    """
    out = Path(config.out)
    templates = made_from["templates"]
    clip.to("cuda" if torch.cuda.is_available() else "cpu")
    cut = count_cut(clip, list(vocabulary.names), templates)
    if cut:
        log.info(
            f"{cut:,} of {len(vocabulary):,} names do not fit the text tower's"
            f" {clip.context_length} tokens in every prompt: those prompts are cut"
        )
    features = embed_blocks(
        clip,
        list(vocabulary.names),
        templates,
        config.batch,
        config.block,
        unfinished(out, UNFINISHED, hash_of(made_from)),
    )
    save_text(out, change.of(features) if change else features, made_from, cut)
    remove_unfinished(out, UNFINISHED)
    log.info(
        f"{out / FEATURES}: {features.shape[0]:,} categories × {features.shape[1]},"
        f" {len(templates)} templates"
    )


def save_text(out: Path, features: Tensor, made_from: dict, cut: int) -> None:
    """The two files, of features [C, D]; `cut` names did not fit the tower's tokens."""
    withdraw(out / PROVENANCE)
    with whole_file(out / FEATURES) as temporary:
        save_file({"features": features}, temporary)
    record = {"made_from": made_from, "cut_names": cut, "shape": list(features.shape)}
    vouch(out / PROVENANCE, record, [FEATURES])


def embed_blocks(
    clip: Clip, names: list[str], templates: list[str], batch: int, size: int, folder: Path
) -> Tensor:
    """[n, D] like `embed`, a block of `size` names at a time; finished blocks wait in `folder` for
    a run that was killed.

    A name that several categories share is embedded once, so their features are equal to the last
    bit.
    """
    distinct = {name: row for row, name in enumerate(dict.fromkeys(map(clean, names)))}
    progress = Progress("text", len(distinct) * len(templates), "prompts")
    blocks, todo = [], list(distinct)
    for start in range(0, len(todo), size):
        path, part = folder / f"{start:07}-{size}.safetensors", todo[start : start + size]
        if (block := load_block(path)) is not None:
            progress.skip(len(part) * len(templates))
        else:
            block = embed(clip, part, templates, batch, progress)
            with whole_file(path) as temporary:
                save_file({"features": block}, temporary)
        blocks.append(block)
    progress.close()
    return torch.cat(blocks)[[distinct[clean(name)] for name in names]]


def load_block(path: Path) -> Tensor | None:
    """A finished block, or None."""
    try:
        return read_tensors(path, MADE_BY, "features")["features"]
    except UserError:
        return None


def load_text(folder: Path, vocabulary: Vocabulary, clip_hash: str | None = None) -> Tensor:
    """Text features [C, D] float32, L2-normalised, in vocabulary order.

    Raises UserError if they are absent, damaged, of another vocabulary, or (with `clip_hash`) of
    another CLIP.
    """
    text_identity(folder, vocabulary, clip_hash)
    features = read_tensors(folder / FEATURES, MADE_BY, "features")["features"]
    if (
        not features.is_floating_point()
        or features.ndim != 2
        or len(features) != len(vocabulary)
        or not math.isfinite(features.sum().item())
    ):
        raise UserError(
            f"{folder / FEATURES} holds features of shape {list(features.shape)}, or some that are"
            f" not finite: make it again with `{MADE_BY}`"
        )
    return features


def templates_of(folder: Path) -> list[str]:
    """The templates that the features in `folder` were made with. Raises UserError if they are
    absent.
    """
    found = read_json(folder / PROVENANCE, MADE_BY, Provenance)["made_from"].get("templates")
    if not found:
        raise wrong(folder / PROVENANCE, "names no templates", MADE_BY)
    return found


def text_identity(folder: Path, vocabulary: Vocabulary, clip_hash: str | None = None) -> str:
    """SHA-256 of the features in `folder`, after checking that they belong to this vocabulary (and
    CLIP). Raises UserError.
    """
    content = read_json(folder / PROVENANCE, MADE_BY, Provenance)
    made_from = content["made_from"]
    check_same_vocabulary(vocabulary, made_from["vocabulary"], f"{folder / FEATURES}", MADE_BY)
    if clip_hash is not None and made_from["clip"] != clip_hash:
        raise UserError(
            f"{folder / FEATURES} was made by CLIP {shown(made_from['clip'])}, not {clip_hash}: "
            f"rebuild it with `{MADE_BY}` and the same clip.* keys"
        )
    if not is_recorded(folder, FEATURES, content[FILES]):
        raise UserError(
            f"{folder / FEATURES} is absent or not what {PROVENANCE} describes: make it again with"
            f" `{MADE_BY}`"
        )
    return content[FILES][FEATURES]
