"""What can be checked before any worker starts, so that bad input costs seconds.

torch and open_clip, which take seconds themselves, are imported once the shards are there.
"""

from pathlib import Path

from c2srt.export.files import is_only_export
from c2srt.files import check_replaceable
from c2srt.hints import Command
from c2srt.lazily import uncollected
from c2srt.opened import read_json
from c2srt.relations.kinds import PROVENANCE as GRAPH_RECORD
from c2srt.teacher.config import FILE as TEACHER_RECORD
from c2srt.text_config import PROVENANCE as TEXT_RECORD
from c2srt.train.config import Config
from c2srt.train.data import load_data
from c2srt.train.finished import is_exported

EXPORTS = ("model", "best")
"""What a training writes beside its checkpoints."""


def check_before_start(config: Config) -> int:
    """Loads and checks every input and an earlier run's checkpoint; returns the steps of the whole
    run. Raises UserError.
    """
    load_data(config)
    check_records(config)
    with uncollected():
        from c2srt.train import checkpoints
        from c2srt.train.inputs import build_model, load_inputs
        from c2srt.train.sources import check_sources, steps_per_epoch

    inputs = load_inputs(config)
    check_sources(config, inputs)
    if config.warm_start:
        build_model(config, inputs)
    found = checkpoints.newest(config.folder / "checkpoints")
    if found is not None:
        checkpoints.check_resumable(
            found, checkpoints.read_record(found), config.identity(), inputs.hashes
        )
    return config.schedule.total_steps(steps_per_epoch(config, inputs))


def check_records(config: Config) -> None:
    """Raises UserError if a folder that is read has not the record that its verb leaves."""
    read_json(Path(config.text) / TEXT_RECORD, Command("text"))
    read_json(Path(config.relations) / GRAPH_RECORD, Command("relations"))
    if config.uses_teacher:
        read_json(Path(config.teacher) / TEACHER_RECORD, Command("teacher"))


def check_exports(config: Config) -> None:
    """Raises UserError if the end of the training would find something else where its exports
    go.
    """
    for name in EXPORTS:
        check_replaceable(config.folder / name, is_only_export)


def already_finished(config: Config, steps: int) -> bool:
    """Whether the export of a run that took at least `steps` updates lies in `out`."""
    if not is_exported(config):
        return False
    from c2srt.train import checkpoints

    found = checkpoints.newest(config.folder / "checkpoints")
    return found is not None and checkpoints.read_record(found).step >= steps
