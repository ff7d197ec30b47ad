"""One DeepSpeed rank as a worker of Ray Train. Light to import: Ray's controller process loads this file too."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from c2srt.errors import UserError
from c2srt.files import write_json

LOG, REFUSED = "train.log", "refused.json"


def train_worker(settings: dict) -> None:
    """Trains with the Config that `settings` are the fields of.

    Bad input is written to `refused.json`, so that the group that Ray starts again returns at once instead of trying again.
    """
    folder = Path(settings["out"])
    if (folder / REFUSED).exists():
        return
    import ray
    import torch
    from ray.train import get_context
    from ray.train.torch import get_device

    device, context = get_device(), get_context()
    if device.type == "cuda":  # DeepSpeed takes its device from LOCAL_RANK, whatever Ray made visible to this worker
        os.environ["LOCAL_RANK"] = str(device.index or 0)
        torch.cuda.set_device(device)
    from c2srt.train.config import from_settings
    from c2srt.train.loop import train
    from c2srt.train.world import World

    tags = {"ray_job_id": ray.get_runtime_context().get_job_id()}
    world = World(context.get_world_rank(), context.get_world_size(), context.get_local_world_size(), device, tags)
    with logged(folder / LOG if world.first else Path(os.devnull)):
        try:
            train(from_settings(settings), world)
        except UserError as error:
            write_json(folder / REFUSED, {"reason": str(error)})
            raise


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Appends everything printed meanwhile to a file."""
    with path.open("a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        yield
