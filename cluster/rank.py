"""One DeepSpeed rank as a worker of Ray Train. Light to import: Ray's controller process loads this
file too.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from c2srt.cluster.lock import hold_as_rank
from c2srt.code import check_alike, running_code
from c2srt.console import show_log
from c2srt.files import raise_if_storage
from c2srt.lazily import uncollected
from c2srt.node_folder import compile_on_node

if TYPE_CHECKING:
    from c2srt.train.world import World

log = logging.getLogger(__name__)
LOG, RAY_FOLDER = "train.log", "ray"


def train_worker(told: dict) -> None:
    """Trains with the Config `told["config"]`; `told["tags"]` go to the tracker, `told["code"]` is
    what the command ran when it began, `told["attempt"]` this attempt's name.

    What it raises reaches the driver as it is: UserError ends the run, anything else is a failure
    to recover from.
    """
    config = told["config"]
    folder = config.folder
    hold_as_rank(folder)
    compile_on_node()
    import ray
    import torch
    from ray.train import get_context
    from ray.train.torch import get_device

    device, context = get_device(), get_context()
    if (
        device.type == "cuda"
    ):  # DeepSpeed takes its device from LOCAL_RANK, whatever Ray made visible to this worker
        os.environ["LOCAL_RANK"] = str(device.index or 0)
        torch.cuda.set_device(device)
    with uncollected():
        from c2srt.train.loop import train
        from c2srt.train.standing import record_collectives, standing
        from c2srt.train.world import World, limit_waits

    record_collectives(told["attempt"])
    show_log()  # train.log is whole, whatever the command shows
    limit_waits(config.faults.collective_timeout)
    tags = {"ray_job_id": ray.get_runtime_context().get_job_id(), **told["tags"]}
    world = World(
        context.get_world_rank(),
        context.get_world_size(),
        context.get_local_world_size(),
        device,
        tags,
    )
    try:
        with logged(folder / LOG if world.first else Path(os.devnull)):
            nodes = meet(world, told["code"])
            log.info(f"{time.strftime('%H:%M:%S')} the workers are up")
            with standing(told["attempt"], world.rank, nodes, config.faults.collective_timeout):
                train(config, world)
    except OSError as error:  # a full disk may show first in a line of the log
        raise_if_storage(error, folder / LOG)
        raise


def meet(world: "World", command: str) -> list[str]:
    """The ranks' first words to each other; returns their nodes. Raises UserError where they run
    different code.
    """
    nodes, codes = zip(*world.gather((socket.gethostname(), running_code())), strict=True)
    check_alike(nodes, codes)
    if world.first and codes[0] != command:
        log.info(f"the workers run {codes[0]}, and the command began with {command}")
    return list(nodes)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Appends everything shown meanwhile to a file."""
    with (
        path.open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as file,
        redirect_stdout(file),
        redirect_stderr(file),
    ):
        yield
