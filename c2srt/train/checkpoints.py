"""Checkpoints on disk: whole or absent, the newest few kept, and resumed only by the run that they belong to.

    <out>/checkpoints/step-00000100/
        deepspeed/…           each rank's part of the engine's state: needs the same number of workers, and holds pickles,
                              so go on only from folders that you wrote
        weights.safetensors   the trainable parameters, whole, float32 (any number of workers; `c2srt export` reads it)
        complete.json         `Record`; the folder is renamed from its temporary name once this is on disk

A folder under a temporary name, or without complete.json, was cut short: it is ignored, and removed by the next run.
"""

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from c2srt.errors import UserError
from c2srt.files import TEMPORARY, raise_if_storage, read_json, remove_leftovers, replace_folder, sync, write_json

FORMAT = 1
COMPLETE, WEIGHTS = "complete.json", "weights.safetensors"
MADE_BY = "c2srt train"


@dataclass(frozen=True)
class Record:
    """What a checkpoint belongs to and where it stands: after `step` updates."""

    step: int
    world_size: int
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


def folder_of(root: Path, step: int) -> Path:
    return root / f"step-{step:08}"


def complete(root: Path) -> list[Path]:
    """Whole checkpoints below `root`, oldest first."""
    return sorted(path.parent for path in root.glob(f"step-*/{COMPLETE}") if TEMPORARY not in path.parent.name)


def newest(root: Path) -> Path | None:
    found = complete(root)
    return found[-1] if found else None


def read_record(folder: Path) -> Record:
    """Raises UserError if the folder is not a whole checkpoint of this version."""
    content = read_json(folder / COMPLETE, MADE_BY)
    if content.pop("format", None) != FORMAT:
        raise UserError(f"{folder} is a checkpoint of another version (format {FORMAT} is read): train into another out=…")
    return Record(**content)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The trainable parameters of a checkpoint by name. Raises UserError if the file is absent or damaged."""
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read ({error}): remove {folder} and run `{MADE_BY}` again") from error


def write(root: Path, engine, record: Record) -> Path:
    """Saves the engine's state and `record` as a whole folder; all ranks call it together, rank 0 renames.

    Raises UserError when the disk is full or not writable.
    """
    final = folder_of(root, record.step)
    temporary = final.with_name(f"{final.name}{TEMPORARY}writing")
    try:
        if dist.get_rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        dist.barrier()
        engine.save(temporary)
        weights = engine.full_weights()
        if dist.get_rank() == 0:
            save_file(weights, temporary / WEIGHTS)
            write_json(temporary / COMPLETE, {"format": FORMAT, **asdict(record)})
            for file in temporary.rglob("*"):
                sync(file)
            sync(temporary)
            replace_folder(temporary, final)
        dist.barrier()
    except OSError as error:
        raise_if_storage(error, final)
        raise
    except RuntimeError as error:  # torch's writer hides the errno
        raise_if_full(error, root)
        raise
    return final


def raise_if_full(error: RuntimeError, root: Path) -> None:
    """Turns torch's "writing failed" into UserError when the disk has no room left."""
    if "PytorchStreamWriter" in str(error) and shutil.disk_usage(root).free < 64 << 20:
        raise UserError(f"the disk is full while writing {root}: free some space and run the same command again") from error


def prune(root: Path, keep: int) -> None:
    """Removes all but the newest `keep` whole checkpoints, renaming first so that a kill leaves no half one."""
    for folder in complete(root)[:-keep]:
        doomed = folder.with_name(f"{folder.name}{TEMPORARY}old")
        folder.rename(doomed)
        shutil.rmtree(doomed)


def clean(root: Path) -> None:
    """Removes what killed runs left. Only one process may call it, while no other writes."""
    remove_leftovers(root)
    for folder in root.glob("step-*"):
        if not (folder / COMPLETE).exists():
            shutil.rmtree(folder)


def check_resumable(folder: Path, record: Record, world_size: int, config: dict, inputs: dict[str, str]) -> None:
    """Refuses to go on from another run's checkpoint, naming the first thing that differs. Raises UserError."""
    instead = f"give the old value, or train into another folder with out=… ({folder} holds the earlier run)"
    if record.world_size != world_size:
        raise UserError(f"the checkpoint was made by workers={record.world_size}, not {world_size}: {instead}")
    before, now = flat(record.config), flat(config)
    for name in sorted(before | now):
        if before.get(name) != now.get(name):
            raise UserError(f"the checkpoint was made with {name}={before.get(name)}, not {now.get(name)}: {instead}")
    for name in sorted(record.inputs | inputs):
        if record.inputs.get(name) != inputs.get(name):
            hashes = f"hash {record.inputs.get(name)}, now {inputs.get(name)}"
            raise UserError(f"the checkpoint was trained on another {name} ({hashes}): restore it, or train into another folder "
                            f"with out=… ({folder} holds the earlier run)")


def flat(config: dict, prefix: str = "") -> dict:
    """A nested dict as {"a.b.c": value}."""
    found = {}
    for name, value in config.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
