"""`c2srt export`: one plain safetensors + config from a checkpoint of any ZeRO stage and workers.

c2srt export checkpoint=runs/miniature/train out=my_model      the newest checkpoint
c2srt export checkpoint=runs/miniature/train/checkpoints/step-00000100 out=…   that one
"""

import logging
from pathlib import Path

from c2srt.artefact import making
from c2srt.cluster.paths import check_lasting
from c2srt.errors import UserError
from c2srt.files import check_replaceable
from c2srt.train import checkpoints
from c2srt.train.export_config import Config

log = logging.getLogger(__name__)


def run(config: Config) -> None:
    """Writes the export. Raises UserError if the checkpoint, or an artefact that it was trained on,
    is absent or changed.
    """
    check_lasting(config.out)
    from c2srt.export.files import is_only_export

    folder = find_checkpoint(Path(config.checkpoint))
    check_replaceable(Path(config.out), is_only_export)
    with making(Path(config.out)):
        step = write(folder, Path(config.out))
    log.info(f"{config.out}: the model after step {step:,} of {folder}")


def write(folder: Path, out: Path) -> int:
    """Exports one checkpoint; returns its step."""
    from c2srt.train.config import from_settings
    from c2srt.train.inputs import export_weights, load_inputs

    record = checkpoints.read_record(folder)
    training = from_settings(record.settings)
    for name, now in load_inputs(training).hashes.items():
        if record.inputs.get(name) != now:
            raise UserError(
                f"{folder} was trained on another {name} (hash {record.inputs.get(name)}, now"
                f" {now}): restore it, then export"
            )
    made_from = {"step": record.step, "config": training.identity(), "config_hash": training.hash()}
    export_weights(out, training, checkpoints.read_weights(folder), made_from)
    return record.step


def find_checkpoint(path: Path) -> Path:
    """The folder itself if it is a whole checkpoint, else the newest sound one below it. Raises
    UserError if there is none.
    """
    if (path / checkpoints.COMPLETE).exists():
        return path
    for root in (path / "checkpoints", path):
        if found := checkpoints.newest(root):
            return found
    raise UserError(
        f"{path} holds no whole checkpoint: give the out=… folder of a training, or one of its "
        "checkpoints/step-… folders"
    )
