"""`c2srt init slurm`: Slurm's job scripts in the folder where it is given, for those who have the
installed package and no clone.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from c2srt.choices import check_choice
from c2srt.files import storage_faults, whole_file
from c2srt.keys import key

log = logging.getLogger(__name__)
SLURM = "slurm"
LOGS = Path(SLURM) / "logs"
"""Where the scripts send Slurm's output, which makes no folder for it."""


@dataclass
class Config:
    """Keys of `c2srt init`."""

    what: str = key(
        SLURM, "slurm: the job scripts, and site.sh, which says what the cluster is like"
    )

    def __post_init__(self) -> None:
        check_choice("what", self.what, (SLURM,))


def run(config: Config) -> None:
    """Writes what is not there; what is there stays as it is, and is named if it is another."""
    with storage_faults(LOGS):
        LOGS.mkdir(parents=True, exist_ok=True)
    for path, content in shipped():
        if not path.exists():
            with whole_file(path) as temporary:
                temporary.write_bytes(content)
                temporary.chmod(0o755 if content.startswith(b"#!") else 0o644)
            log.info(f"{path} is written")
        elif path.read_bytes() != content:
            log.info(f"{path} stays as it is: it is not c2srt's own, which comes once it is away")
        else:
            log.info(f"{path} is there")


def shipped() -> Iterator[tuple[Path, bytes]]:
    """The files and their contents, in the order of their names."""
    for entry in sorted(files("c2srt").joinpath(SLURM).iterdir(), key=lambda entry: entry.name):
        if entry.is_file():
            yield Path(SLURM) / entry.name, entry.read_bytes()
