"""What slurm/site.sh says, how a run ends, and what all of the launcher says and asks."""

import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)
BAD_INPUT, REQUEUE, CANCELLED, NOT_STARTED = 2, 75, 143, 1


def say(text: str) -> None:
    log.info(f"{time.strftime('%H:%M:%S')} launch: {text}")


class Refused(Exception):
    """Bad input, as one sentence."""


@dataclass(frozen=True)
class Outcome:
    """How the run ended: the exit status, whether Slurm should start it again, and why."""

    status: int
    reason: str
    again: bool = False


@dataclass(frozen=True)
class Site:
    """What slurm/site.sh says."""

    cpu_workers: int = 1
    """Training workers a node when the allocation has no GPUs."""
    join_seconds: float = 180
    """For all nodes to join Ray."""
    save_seconds: float = 240
    """For a job to save and leave once told to; less than the `--signal` time in the scripts."""
    max_requeues: int = 100
    check_seconds: float = 90
    """The most that the look at the nodes before a training may take; 0: none."""
    logs: str = "slurm/logs"
    run: str = ""
    """Put before every command on the nodes: a container's `exec`."""

    @classmethod
    def from_environment(cls) -> "Site":
        given = {name: os.environ.get(f"C2SRT_{name.upper()}") for name in cls.__dataclass_fields__}
        try:
            return cls(
                **{
                    name: type(getattr(cls, name))(value)
                    for name, value in given.items()
                    if value is not None
                }
            )
        except ValueError as error:
            raise Refused(f"slurm/site.sh: {error}") from error

    def python(self, *arguments: str) -> list[str]:
        """A Python command on a node, in the container if there is one."""
        return [*shlex.split(self.run), "python" if self.run else sys.executable, *arguments]

    def on_every_node(
        self, count: int, module: str, *arguments: str, options: Sequence[str] = ()
    ) -> list[str]:
        """srun of a Python module, one task on each of the allocation's `count` nodes."""
        each = [f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1", "--overlap"]
        quiet = ["--cpu-bind=none", "--mpi=none", "--kill-on-bad-exit=0"]
        return ["srun", *each, *quiet, *options, *self.python("-m", module, *arguments)]


def allocated_nodes() -> list[str]:
    """The names of the nodes that this job was given."""
    given = os.environ["SLURM_JOB_NODELIST"]
    return command_output("scontrol", "show", "hostnames", given).split()


def command_output(*command: str) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, encoding="utf-8", errors="replace"
    ).stdout


def signal_name(number: int | str) -> str:
    return signal.Signals(int(number)).name
