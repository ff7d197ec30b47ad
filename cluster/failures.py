"""What is written down of a training's failures: lines in its log and in `<out>/failures.jsonl`.
Light to import.
"""

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from c2srt.cluster.rank import LOG
from c2srt.train.config import Config

log = logging.getLogger(__name__)
FAILURES = "failures.jsonl"


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended, where its ranks had stood by then, and where the next one goes on."""

    time: str
    cause: str
    step: int
    workers: int
    stood: str = ""


def note(config: Config, failure: Failure, in_a_row: int) -> None:
    """Adds a failure to the run's log and record."""
    stood = f"; {failure.stood}" if failure.stood else ""
    say(
        config,
        f"attempt failed ({in_a_row} in a row without progress): {failure.cause}{stood}; going on"
        f" from step {failure.step:,}",
    )
    append(config.folder / FAILURES, json.dumps(asdict(failure)))


def say(config: Config, text: str) -> None:
    """A line in the run's log, which is shown meanwhile."""
    append(config.folder / LOG, f"{time.strftime('%H:%M:%S')} {text}")


def append(path: Path, line: str) -> None:
    """Adds a line; on a full disk it is shown instead."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    except OSError:
        log.info(line)


def failure_tags(config: Config) -> dict[str, str]:
    """For the tracker: how often the training was started again, and why the last time."""
    path = config.folder / FAILURES
    lines = (
        [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        if path.exists()
        else []
    )
    return {"restarts": str(len(lines))} | (
        {"last_failure": json.loads(lines[-1])["cause"]} if lines else {}
    )
