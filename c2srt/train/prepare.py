"""What can be checked before any worker starts, so that bad input costs seconds."""

from c2srt.train import checkpoints
from c2srt.train.config import Config
from c2srt.train.inputs import load_inputs
from c2srt.train.sources import check_sources, steps_per_epoch


def check_before_start(config: Config) -> int:
    """Loads and checks every input and an earlier run's checkpoint; returns the steps of the whole run. Raises UserError."""
    inputs = load_inputs(config)
    check_sources(config, inputs)
    found = checkpoints.newest(config.folder / "checkpoints")
    if found is not None:
        checkpoints.check_resumable(found, checkpoints.read_record(found), config.identity(), inputs.hashes)
    return config.total_steps(steps_per_epoch(config, inputs))


def already_finished(config: Config, steps: int) -> bool:
    """Whether the export of a run that took at least `steps` updates lies in `out`."""
    if not (config.folder / "model" / "config.json").exists():
        return False
    found = checkpoints.newest(config.folder / "checkpoints")
    return found is not None and checkpoints.read_record(found).step >= steps
