"""What the command line is told of a verb by whoever registers it (cluster/cli.py)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

Work: TypeAlias = Callable[..., int | None]
"""Of an instance of a verb's dataclass; returns the exit status, None for 0. Raises UserError."""


@dataclass(frozen=True)
class Verb:
    """`c2srt <name>`, whose groups of keys are in configs/<name>.yaml.

    `keys` gives the dataclass of its keys and `work` the function that does its work; each imports
    what it gives when it is called. The dataclass lies beside what it configures, and imports no
    torch, Ray or open_clip: `c2srt --help` costs no import, and a mistyped key no library.
    """

    name: str
    about: str
    """One line of `c2srt --help`."""
    keys: Callable[[], type]
    work: Callable[[], Work]
    words: tuple[str, ...] = ()
    """Keys whose values may be given first, as bare words."""
    may_follow: str | None = None
    """A word that may follow the name and changes nothing."""
    built_on: "Verb | None" = None
    """The verb whose keys are its own, too."""
    saves: bool = False
    """Told to end by SIGTERM or Slurm's warning it saves, and goes on the next time: its status is
    75, on which Slurm's requeue relies.
    """
    takes_jobs: bool = False
    """It runs other verbs: its work is also given the jobs of an experiment (c2srt/jobs.py)."""
