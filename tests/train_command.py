"""`c2srt train` as a process of its own, and its family of processes: for tests that kill some of
them.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from c2srt.train import checkpoints
from c2srt.train.config import Config


def command(case: Config, name: str, *more: str) -> list[str]:
    """The command line that trains `case` into `<work>/<name>`; `more` keys override."""
    keys = {
        "work": case.work,
        "relations": case.relations,
        "teacher": "online",
        "clip.name": case.clip.name,
        "clip.pretrained": "random",
        "out": f"{case.work}/{name}",
        "epochs": 10,
        "batch": 8,
        "micro_batch": 2,
        "loader_workers": 1,
        "lr": 1e-3,
        "head_lr": 1e-3,
        "model.layers": 1,
        "model.heads": 2,
        "checkpoint_every": 3,
        "log_every": 2,
        "checkpoints.seconds": 0,
        "tracking.seconds": 0,
        "views.count": 2,
        "tracking.model": "false",
    } | dict(key.split("=", 1) for key in more)
    return [
        sys.executable,
        "-m",
        "c2srt.cluster.train",
        *(f"{key}={value}" for key, value in keys.items()),
    ]


def launch(arguments: list[str], log: Path, **environment: str) -> psutil.Popen:
    """Starts a command whose output goes to `log`, on a Ray of its own unless `environment` names
    one.
    """
    quiet = {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": os.getcwd(),
        "RAY_worker_niceness": "0",
    }
    ours = {
        name: value
        for name, value in os.environ.items()
        if name not in ("RAY_ADDRESS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    }
    with log.open("a") as file:
        return psutil.Popen(
            arguments,
            env={**ours, **quiet, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=as_from_a_terminal,
        )


def as_from_a_terminal() -> None:
    """Signals as a shell's foreground command has them, whatever this process was started with or
    has met.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def newest(folder: Path) -> int:
    """The step of the newest whole checkpoint of a training; 0 without one."""
    return max(
        (int(path.name[-8:]) for path in checkpoints.complete(folder / "checkpoints")), default=0
    )


def wait_until(
    condition, what: str, process: psutil.Popen | None = None, seconds: float = 300
) -> None:
    """Polls a condition; fails when `process` ends before, or time runs out."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline or process is not None and process.poll() is not None:
            pytest.fail(f"{what}: never came")
        time.sleep(0.05)


def family(process: psutil.Process) -> list[psutil.Process]:
    """A process and all below it."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def ranks(process: psutil.Process) -> list[psutil.Process]:
    """Ray Train's worker processes, without the loader workers that they forked."""
    found = [member for member in family(process) if "RayTrainWorker" in title(member)]
    return [member for member in found if member.ppid() not in {other.pid for other in found}]


def loaders(process: psutil.Process) -> list[psutil.Process]:
    """The loader workers of the ranks."""
    return [
        child
        for rank in ranks(process)
        for child in rank.children()
        if "RayTrainWorker" in title(child)
    ]


def end(process: psutil.Popen) -> None:
    """Kills what is left of a command and its family."""
    for member in family(process):
        with suppress(psutil.NoSuchProcess):
            member.send_signal(signal.SIGKILL)
    process.wait()


def ended(process: psutil.Popen, status: int, log: Path, seconds: float = 400) -> str:
    """Waits for the command's end with this exit status; returns what it said."""
    try:
        found = process.wait(seconds)
    except psutil.TimeoutExpired:
        end(process)
        found = "none"
    assert found == status, f"exit status {found}:\n{log.read_text()[-4000:]}"
    return log.read_text()
