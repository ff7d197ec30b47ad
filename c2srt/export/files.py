"""The exported model on disk: its two files, where they are found, and their identity. They need
neither DeepSpeed nor the training config; `write.py` makes them, `read.py` builds the model.

model.safetensors   float32: `visual.*` (the student's tower, open_clip names), `head.*`, the
                    frozen CLIP's other weights (text tower, logit_scale; open_clip names),
                    `text` [C, D] unit rows, `table` int32 [C, K]; after `c2srt tune` also
                    `context`, the learned embeddings of the one template; after `c2srt messages`
                    also `messages.*`, the tensors of c2srt/model/messages.py; after
                    `c2srt calibrate` also `calibration.*`, those of c2srt/model/calibration.py
config.json         {"format": 1, "model": ModelConfig,
                    "clip": {"config", "mean", "std", "hash"}, "vocabulary": {…},
                    "templates": […], "made_from": {…}, "versions": {…} of what wrote it, which are
                    no part of its identity}
tokenizer/          only where the text tower reads another tokenizer than CLIP's own: the files of
                    that one; config.json's clip then has its hash as "tokenizer"
"""

import json
from contextlib import suppress
from pathlib import Path

from c2srt.artefact import hash_of_record
from c2srt.errors import UserError
from c2srt.files import hash_of, sha256_of_file
from c2srt.hints import Command
from c2srt.locations import here
from c2srt.opened import read_json
from c2srt.storage import mirror

FORMAT = 1
BELONGS = "config"
"""The note in the tensors' header."""
MODEL_FILE, CONFIG_FILE, TOKENIZER = "model.safetensors", "config.json", "tokenizer"
MESSAGES, CALIBRATION = "messages.", "calibration."
MADE_BY = Command("export")
SHOWN = 3


def belonging(content: dict) -> str:
    """What the tensors carry of the config.json that they belong to: other weights of the same
    shapes would pass for its model. Exports made before carry nothing.
    """
    parts = [content[name] for name in ("clip", "vocabulary", "made_from")]
    return hash_of(json.loads(json.dumps(parts, default=str)))


def identity(folder: Path) -> str:
    """Changes when an export changes, and not with the versions that wrote it. Raises OSError if a
    file is absent.
    """
    return hash_of([hash_of_record(folder / CONFIG_FILE), sha256_of_file(folder / MODEL_FILE)])


def is_export(folder: Path) -> bool:
    return mirror.there(folder / CONFIG_FILE) and mirror.there(folder / MODEL_FILE)


def is_only_export(folder: Path) -> bool:
    """Whether the folder holds an export of ours and nothing else, so that another may take its
    place: other programs' models lie in files of the same names.
    """
    if not {path.name for path in folder.iterdir()} <= {MODEL_FILE, CONFIG_FILE, TOKENIZER}:
        return False
    with suppress(UserError):
        return {"format", "model", "clip", "vocabulary"} <= read_json(
            folder / CONFIG_FILE, MADE_BY
        ).keys()
    return False


def find_export(path: str, key: str = "checkpoint") -> Path:
    """The export folder at `path`, or `path`/model when `path` is a training's folder. Raises
    UserError if there is none, with the models that are near; `key`: what named it.
    """
    path = here(key, path)
    for folder in (Path(path), Path(path) / "model"):
        if is_export(folder):
            return folder
    near = next(filter(None, map(exports_below, (Path(path), *Path(path).parents[:2]))), [])
    training = Path(path).parent if Path(path).name == "model" else Path(path)
    if (training / "checkpoints").is_dir():
        advice = f"make one with `{Command('export', checkpoint=training, out=training / 'model')}`"
    elif near:
        advice = (
            f"there is {', '.join(map(str, near[:SHOWN]))}{' …' if len(near) > SHOWN else ''}: give"
            f" one as {key}=…"
        )
    else:
        advice = "give the model/ or best/ folder that training writes"
    raise UserError(
        f"{key}={path} is not an exported model ({MODEL_FILE} and {CONFIG_FILE}): {advice}"
    )


def exports_below(folder: Path) -> list[Path]:
    """The exports up to three folders below one, the shallowest first: where `c2srt demo`, `tables`
    and `train` put them.
    """
    if folder == folder.parent and folder.is_absolute():
        return []  # the whole machine is not near
    found = [
        path.parent
        for depth in range(4)
        for path in sorted(folder.glob("/".join(["*"] * depth + [MODEL_FILE])))
    ]
    return [path for path in found if is_export(path)]
