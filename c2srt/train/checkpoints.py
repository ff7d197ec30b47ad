"""Checkpoints on disk: whole or absent, the newest few kept, and resumed only by the run that they
belong to.

    <out>/checkpoints/step-00000100/
        weights.safetensors     the trainable parameters, whole, float32 (`c2srt export` reads it)
        optimizer.safetensors   AdamW's two moments of each: exp_avg.<name> and exp_avg_sq.<name>,
                                whole, float32
        complete.json           `Record`; the folder is renamed from its temporary name once this is
                                on disk

Any number of workers, micro-batch, ZeRO stage and offload goes on from it, and nothing in it is
code. A folder under a temporary name, or without complete.json, was cut short: it is ignored, and
removed by the next run. A file that is not the one that was written makes the checkpoint before it
count.
"""

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from c2srt.bounds import Count
from c2srt.errors import UserError
from c2srt.files import (
    TEMPORARY,
    remove_leftovers,
    replace_folder,
    sha256_of_file,
    storage_faults,
    sync,
    write_json,
)
from c2srt.hints import Command
from c2srt.old_names import today
from c2srt.opened import misfit, read_json, reason, wrong
from c2srt.shown import shown
from c2srt.storage import mirror
from c2srt.versions import versions

log = logging.getLogger(__name__)

FORMAT = 2
COMPLETE, WEIGHTS, OPTIMIZER = "complete.json", "weights.safetensors", "optimizer.safetensors"
MADE_BY = Command("train")


@dataclass(frozen=True)
class Record:
    """What a checkpoint belongs to and where it stands: after `step` updates."""

    step: int
    world_size: int
    """Workers that took this step; any number may go on."""
    config: dict
    """`Config.identity()` of the run."""
    inputs: dict[str, str]
    """Hash of every artefact that was read, by name."""
    settings: dict = field(default_factory=dict)
    """The run's whole config, so that an export needs nothing else."""
    run_id: str | None = None
    """MLflow run."""
    metrics: dict = field(default_factory=dict)
    best: dict | None = None
    """{"step", "mAP"} of the best validation so far."""
    nonfinite: int = 0
    """Updates left out in a row because of a non-finite loss or gradient."""
    optimizer: dict = field(default_factory=dict)
    """`Engine.counters()`."""
    tile_bytes: Count | None = None
    """What the head's tiles may take (tiles.py); checkpoints made before have none."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the files beside complete.json, by name."""
    versions: dict[str, str] = field(default_factory=dict)
    """`versions()` of the process that wrote it; checkpoints made before have none."""


@dataclass(frozen=True)
class Files:
    """What complete.json must have to be checked."""

    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Counters:
    """What complete.json must say of the optimizer, if anything."""

    applied: Count = 0
    loss_scaler: dict[str, bool | int | float] = field(default_factory=dict)


def folder_of(root: Path, step: int) -> Path:
    return root / f"step-{step:08}"


def complete(root: Path) -> list[Path]:
    """Whole checkpoints below `root`, oldest first."""
    return sorted(
        path.parent for path in root.glob(f"step-*/{COMPLETE}") if TEMPORARY not in path.parent.name
    )


def newest(root: Path) -> Path | None:
    """The newest whole checkpoint whose files are as they were written; damaged ones are passed
    over with a line each.

    Raises UserError if there are checkpoints and all are damaged.
    """
    found = complete(root)
    for folder in reversed(found):
        reason = damage(folder)
        if reason is None:
            return folder
        log.info(f"checkpoint {folder} is damaged and left out: {reason}")
    if found:
        raise UserError(
            f"every checkpoint in {root} is damaged: restore one, or remove the folder to start"
            " again from step 0"
        )
    return None


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        files = read_json(folder / COMPLETE, MADE_BY, Files).get("files", {})
        if strange := [name for name in files if name not in (WEIGHTS, OPTIMIZER)]:
            return f"{COMPLETE} names '{shown(strange[0])}', which is no file of a checkpoint"
        changed = [
            name for name, digest in files.items() if sha256_of_file(folder / name) != digest
        ]
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    return (
        f"{changed[0]} is not the file that was written (its SHA-256 differs)" if changed else None
    )


def read_record(folder: Path) -> Record:
    """Raises UserError if the folder is not a whole checkpoint of this version."""
    path, another = folder / COMPLETE, "train into another out=…"
    content = read_json(path, another)
    known = {one.name for one in fields(Record)}
    if content.get("format") != FORMAT or not {
        "step",
        "config",
        "inputs",
    } <= content.keys() <= known | {"format"}:
        raise UserError(
            f"{folder} is a checkpoint of another version (format {FORMAT} is read): {another}"
        )
    content = read_json(path, another, Record)
    if unlike := misfit(json.dumps(content.get("optimizer", {})), Counters):
        raise wrong(path, f"is not what it should be (optimizer.{unlike})", another)
    return Record(**{name: value for name, value in content.items() if name != "format"})


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The trainable parameters of a checkpoint by name. Raises UserError if the file is absent or
    damaged.
    """
    with readable(folder / WEIGHTS):
        return load_file(folder / WEIGHTS)


def open_moments(folder: Path) -> Callable[[str], Tensor]:
    """A reader of the optimizer's tensors, one at a time, by name. Raises UserError if the file, or
    one in it, is absent.
    """
    path = folder / OPTIMIZER
    file = open_tensors(path)

    def read(name: str) -> Tensor:
        with readable(path):
            return file.get_tensor(name)

    return read


def open_tensors(path: Path) -> Any:
    """A checkpoint's file of tensors, none of them read. Raises UserError if it is absent or
    damaged.
    """
    with readable(path):
        return safe_open(path, "pt")


def shapes_of(file: Any, path: Path) -> dict[str, list[int]]:
    """The shapes of an opened file's tensors, by name."""
    with readable(path):
        names = file.keys()  # it cannot be iterated itself
        return {name: file.get_slice(name).get_shape() for name in names}


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what goes wrong while reading a checkpoint's file into UserError."""
    mirror.fetched(path)
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise unreadable(path, reason(error)) from error


def unreadable(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} cannot be read ({why}): remove {path.parent} and run `{MADE_BY}` again"
    )


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint will hold, as it was after a step: training goes on and changes nothing of
    it.
    """

    record: Record
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]


def snapshot(engine, record: Record) -> Snapshot:
    """Copies the engine's state to rank 0's host memory, 12 bytes for each trainable parameter; the
    others get no tensors. All ranks call it together.
    """
    record = replace(record, optimizer=engine.counters(), versions=versions())
    return Snapshot(record, engine.full_weights(), engine.full_moments())


def write(root: Path, taken: Snapshot) -> Path:
    """Writes a snapshot as a whole folder, or nothing that counts; for one process. Raises
    UserError when the disk is full or not writable.
    """
    final = folder_of(root, taken.record.step)
    temporary = final.with_name(f"{final.name}{TEMPORARY}writing")
    with storage_faults(final):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(taken.weights, temporary / WEIGHTS)
        save_file(taken.moments, temporary / OPTIMIZER)
        files = {name: sha256_of_file(temporary / name) for name in (WEIGHTS, OPTIMIZER)}
        record = {"format": FORMAT, **asdict(replace(taken.record, files=files))}
        write_json(temporary / COMPLETE, record)
        for file in temporary.rglob("*"):
            sync(file)
        sync(temporary)
        replace_folder(temporary, final)
    return final


def prune(root: Path, keep: int, step: int) -> None:
    """Removes all but the newest `keep` whole checkpoints up to `step` (later ones are damaged, or
    they would have been gone on from), renaming first so that a kill leaves no half one.
    """
    for folder in [
        folder for folder in complete(root) if folder.name <= folder_of(root, step).name
    ][:-keep]:
        mirror.remove_folder(folder)
        doomed = folder.with_name(f"{folder.name}{TEMPORARY}old")
        folder.rename(doomed)
        shutil.rmtree(doomed)


def clean(root: Path) -> None:
    """Removes what killed runs left. Only one process may call it, while no other writes."""
    remove_leftovers(root)
    for folder in root.glob("step-*"):
        if re.fullmatch(r"step-\d{8}", folder.name) and not (folder / COMPLETE).exists():
            shutil.rmtree(folder)


def check_resumable(folder: Path, record: Record, config: dict, inputs: dict[str, str]) -> None:
    """Refuses to go on from another run's checkpoint, naming the first thing that differs. Raises
    UserError.
    """
    instead = (
        f"give the old value, or train into another folder with out=… ({folder} holds the earlier"
        " run)"
    )
    before, now = flat(record.config), flat(config)
    for name in sorted(before | now):
        if before.get(name) != now.get(name):
            values = f"{today(name)}={shown(before.get(name))}, not {shown(now.get(name))}"
            raise UserError(f"the checkpoint was made with {values}: {instead}")
    for name in sorted(record.inputs | inputs):
        if record.inputs.get(name) != inputs.get(name):
            hashes = f"hash {shown(record.inputs.get(name))}, now {inputs.get(name)}"
            raise UserError(
                f"the checkpoint was trained on another {shown(name)} ({hashes}): restore it, or"
                f" train into another folder with out=… ({folder} holds the earlier run)"
            )


def flat(config: dict, prefix: str = "") -> dict:
    """A nested dict as {"a.b.c": value}."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= (
            flat(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {f"{prefix}{name}": value}
        )
    return found
