"""Writing the exported model; the format is in files.py."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from c2srt.backbone.clip import Clip
from c2srt.backbone.tokens import Tokenizer
from c2srt.export.files import (
    BELONGS,
    CALIBRATION,
    CONFIG_FILE,
    FORMAT,
    MADE_BY,
    MESSAGES,
    MODEL_FILE,
    TOKENIZER,
    belonging,
    is_only_export,
)
from c2srt.files import whole_folder, write_json
from c2srt.model.calibration import Calibration
from c2srt.model.context import Context
from c2srt.model.messages import Messages
from c2srt.model.network import Network
from c2srt.opened import read_json, read_tensors
from c2srt.versions import VERSIONS, versions
from c2srt.vocabulary import Vocabulary


def save_export(
    folder: Path,
    model: Network,
    state: dict[str, Tensor],
    clip: Clip,
    vocabulary: Vocabulary,
    templates: list[str],
    made_from: dict,
) -> None:
    """Writes the files, whole or not at all. `state` is the model's full state dict (gathered,
    any float type); `clip` the frozen CLIP that it was made from; `made_from` hashes and settings
    for the record.
    """
    tower = {
        name.removeprefix("tower."): tensor
        for name, tensor in state.items()
        if name.startswith("tower.")
    }
    tensors = model.tower.clip_state(tower) | {
        name: tensor for name, tensor in state.items() if name.startswith("head.")
    }
    tensors |= clip.text_state()
    tensors = {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in tensors.items()
    }
    graph = model.graph_on(torch.device("cpu"))
    tensors |= {
        "text": graph.text.float().contiguous(),
        "table": graph.table.to(torch.int32).contiguous(),
    }
    described = {"config": clip.model_config, "mean": clip.mean, "std": clip.std, "hash": clip.hash}
    if clip.tokenizer.hash is not None:
        described["tokenizer"] = clip.tokenizer.hash
    listed = {
        "mids": vocabulary.mids,
        "names": vocabulary.names,
        "seen_count": vocabulary.seen_count,
    }
    content = {
        "format": FORMAT,
        "model": asdict(model.config),
        "clip": described,
        "vocabulary": listed,
        "templates": templates,
        "made_from": made_from,
        VERSIONS: versions(),
    }
    with whole_folder(folder, is_only_export) as temporary:
        save_file(tensors, temporary / MODEL_FILE, {BELONGS: belonging(content)})
        clip.tokenizer.save(temporary / TOKENIZER)
        write_json(temporary / CONFIG_FILE, content)


def save_fitted(
    folder: Path,
    source: Path,
    tokenizer: Tokenizer,
    fitted: Messages | Calibration,
    made_from: dict,
) -> None:
    """Writes the export in `source`, of this tokenizer, again with what was fitted on its
    scores.
    """
    prefix = MESSAGES if isinstance(fitted, Messages) else CALIBRATION
    found = {f"{prefix}{name}": tensor for name, tensor in fitted.tensors().items()}
    save_again(folder, source, tokenizer, found, {"made_from": made_from})


def save_with_context(
    folder: Path,
    source: Path,
    tokenizer: Tokenizer,
    text: Tensor,
    context: Context,
    made_from: dict,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Writes the export in `source` again with a tuned template: its `text` [C, D] for all
    categories, and the context that embeds new words. `check` raises if what was read of `source`
    is not what the context was tuned for.
    """
    learned = {
        "text": text.float().cpu().contiguous(),
        "context": context.values.detach().float().cpu().contiguous(),
    }
    changed = {"templates": [context.template], "made_from": made_from}
    save_again(folder, source, tokenizer, learned, changed, check)


def save_again(
    folder: Path,
    source: Path,
    tokenizer: Tokenizer,
    learned: dict[str, Tensor],
    changed: dict,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Writes the export in `source` with further or other tensors and parts of its config.json;
    `check` is called once it was read.
    """
    tensors = read_tensors(source / MODEL_FILE, MADE_BY) | learned
    content = read_json(source / CONFIG_FILE, MADE_BY) | changed | {VERSIONS: versions()}
    check()
    with whole_folder(folder, is_only_export) as temporary:
        save_file(tensors, temporary / MODEL_FILE, {BELONGS: belonging(content)})
        tokenizer.save(temporary / TOKENIZER)
        write_json(temporary / CONFIG_FILE, content)
