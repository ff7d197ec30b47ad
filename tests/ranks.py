"""Runs a function on several real ranks: processes with torch.distributed over gloo."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from c2srt.console import show_log
from tests.senders import fork_senders

# Importing DeepSpeed, and what MLflow needs for a database, takes longer than most trainings here:
# one process does it, and ranks are its forks. Not with a GPU, which a fork cannot use.
START = "spawn" if torch.cuda.is_available() else "forkserver"
PRELOADED = (
    "c2srt.train.loop",
    "c2srt.tracking.mlflow_sink",
    "mlflow.store.tracking.sqlalchemy_store",
    "matplotlib.figure",
)
multiprocessing.set_forkserver_preload([*PRELOADED])


def run_ranks(size: int, function: Callable, *arguments: object) -> list:
    """Calls `function(rank, *arguments)` in `size` new processes and returns their results
    (anything torch.save takes).
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            one_rank,
            (size, folder, dict(os.environ), function, arguments),
            size,
            start_method=START,
        )
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(size)]


def one_rank(
    rank: int,
    size: int,
    folder: str,
    environment: dict[str, str],
    function: Callable,
    arguments: tuple,
) -> None:
    os.environ.update(environment)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="1",
    )
    show_log()  # as c2srt.cluster.rank does
    torch.set_num_threads(1)
    if START != "spawn":
        fork_senders()
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size
    )
    result = function(rank, *arguments)
    torch.save(result, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
