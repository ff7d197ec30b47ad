"""The record of a run in MLflow or another tracker. One that is down or slow neither stops nor
slows the work.

What is to be recorded is appended to a journal in the run's folder (journal.py), which costs
microseconds; a process beside the training's (sending.py) sends it (sender.py) to the sink
(sink.py) that the address belongs to (sinks.py): MLflow's is mlflow_sink.py, the only file that
imports mlflow. What could not be sent stays in the journal, and the next `Tracker` on that folder
sends it, with its original times.
"""

import logging
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from c2srt.redact import redacted
from c2srt.tracking.job import git_commit, job_tags
from c2srt.tracking.journal import JOURNAL, RUN, Journal, parsed
from c2srt.tracking.seen import Seen
from c2srt.tracking.sending import Sending
from c2srt.tracking.sink import DESCRIPTION
from c2srt.tracking.sinks import how_to_open

log = logging.getLogger(__name__)

__all__ = [
    "DESCRIPTION",
    "JOURNAL",
    "RUN",
    "DataSet",
    "Journal",
    "Run",
    "Tracker",
    "git_commit",
    "how_to_open",
    "job_tags",
    "redacted",
    "send_rest",
    "unsent",
]
WAIT_S, WAIT_DOWN_S, LONGEST_S, BYTES_PER_S = 30.0, 5.0, 300.0, 10e6
"""How long `close` waits for the next thing to be sent: with a store that answers, with one that
did not, and in all; and the slowest transfer of a model that is waited for.
"""


@dataclass(frozen=True)
class DataSet:
    """What a run learns from: its name, the version of its content, the folder it lies in, and its
    number of images.
    """

    name: str
    version: str
    folder: str
    images: int


@dataclass(frozen=True)
class Run:
    """A run to be opened. `key` tells it from another run in the same folder. `parent`: the name of
    the run it is a child of. The tag `DESCRIPTION` is shown as text where a tracker can.
    """

    experiment: str
    name: str | None
    params: dict[str, Any]
    tags: dict[str, str]
    key: str = ""
    parent: str | None = None
    data: DataSet | None = None
    token: str = field(default_factory=lambda: uuid.uuid4().hex)


class Tracker:
    """One run, recorded in `folder`.

    With `run`, the run that this folder already holds under the same key goes on, else a new one is
    opened; `run_id`: the run to go on with where the folder does not know (a checkpoint does).
    Without `run`, entries are added to the folder's run, whatever its state, and `uri` is that
    run's by default. No method waits for the store but `close`, and none raises for it. Use it as:

        tracker = Tracker(folder, uri, Run("openimages", "full", params, tags, key))
        tracker.metrics({"loss": 0.5}, step)
        tracker.close()
    """

    def __init__(
        self,
        folder: Path,
        uri: str | None = None,
        run: Run | None = None,
        run_id: str | None = None,
    ) -> None:
        self.journal, self._warned, self._clock = Journal(folder), False, Clock()
        self.journal.mend()
        state = self.journal.state()
        self.uri = uri = uri or with_credentials(state["uri"], os.environ)
        if run and state.get("config_hash", run.key) != run.key:
            # another run, killed before its first checkpoint
            self.journal.path.unlink(missing_ok=True)
            state = {}
        if state.get("uri", redacted(uri)) != redacted(uri):
            state = {"seen": state.get("seen")}  # another store: it gets the whole record
        seen = Seen.noted(state.get("seen"), self.journal.size)
        self.journal.catch_up(seen)
        self._before = dict(seen.steps)
        sent = state.get("sent", 0)
        self.journal.note(
            uri=uri,
            run_id=state.get("run_id") or run_id,
            # a store that keeps folders may have given back a shorter journal
            sent=sent if sent <= self.journal.size else 0,
            seen=vars(seen),
            **({"config_hash": run.key} if run else {}),
        )
        if run:
            self._open(run, self.journal.opening(seen), run_id is not None)
        self.sender = Sending(self.journal, uri)
        self.sender.start()

    def _open(self, run: Run, recorded: dict[str, Any] | None, elsewhere: bool) -> None:
        """Records what opens the run, unless it is `recorded`, and what a further attempt adds.

        Another experiment than the recorded one counts as long as the run is in none: that one may
        have been deleted.
        """
        tags = {name: str(value) for name, value in run.tags.items()}
        if recorded and recorded["experiment"] != run.experiment:
            self._append({"open": recorded | {"experiment": run.experiment}})
        if not recorded:
            self._append(
                {
                    "open": {
                        "token": run.token,
                        "experiment": run.experiment,
                        "name": run.name,
                        "parent": run.parent,
                        "params": {name: str(value) for name, value in run.params.items()},
                        "tags": tags,
                        "data": run.data and vars(run.data),
                        "time": self._clock.now(),
                    }
                }
            )
        if recorded or elsewhere:
            self.tags(tags)
            self._append({"status": "RUNNING", "time": self._clock.now()})

    @property
    def run_id(self) -> str | None:
        """None as long as the store has not been reached."""
        return self.sender.run_id

    def new(self, values: dict[str, float], step: int) -> dict[str, float]:
        """The values without those that an attempt before has recorded at this step or beyond: the
        step is done again, and a tracker would show it twice.
        """
        before = self._before
        return {name: value for name, value in values.items() if step > before.get(name, step - 1)}

    def tags(self, tags: dict[str, str]) -> None:
        """Sets tags of the run."""
        self._append({"tags": tags})

    def params(self, values: dict[str, Any]) -> None:
        """Adds parameters that were not known when the run was opened. One that the run has keeps
        its value.
        """
        self._append({"params": {name: str(value) for name, value in values.items()}})

    def metrics(self, values: dict[str, float], step: int, mark: str | None = None) -> None:
        """`mark` tells a later call that this was recorded."""
        self._append(
            {
                "metrics": {name: float(value) for name, value in values.items()},
                "step": step,
                "time": self._clock.now(),
                **({"mark": mark} if mark else {}),
            }
        )

    def artifact(self, path: Path, folder: str | None = None, mark: str | None = None) -> None:
        """Copies a file into the run's artifacts, as it is when it is sent."""
        self._append(
            {
                "artifact": self.journal.relative(path),
                "folder": folder,
                **({"mark": mark} if mark else {}),
            }
        )

    def model(self, path: Path, step: int, register: str | None = None) -> None:
        """Logs an export folder as the run's model, registered under a name if one is given; once
        for each step and name.
        """
        self._append({"model": self.journal.relative(path), "step": step, "register": register})

    def close(self, status: str | None = "FINISHED") -> None:
        """FINISHED, FAILED, or KILLED (stopped early, goes on later); None leaves the run's status
        alone.

        Waits for the rest to be sent, a bounded time, and says in one line what remains.
        """
        if status:
            self._append({"status": status, "time": self._clock.now()})
        self.sender.close()
        models = sum(size_of(self.journal.folder / model) for model in self._models_left())
        started, wait = (
            time.monotonic(),
            WAIT_DOWN_S if self.sender.failing else WAIT_S + models / BYTES_PER_S,
        )
        while self.sender.is_alive() and time.monotonic() < min(
            max(started, self.sender.moved) + wait, started + wait + LONGEST_S
        ):
            self.sender.join(0.05)
        self.sender.end()
        if left := self.left():
            when = "sent when the same command runs again" + (
                f" after this: {self.sender.helps}" if self.sender.helps else ""
            )
            log.warning(
                f"tracking: {left:,} entries did not reach {redacted(self.uri)}; they are kept"
                f" in {self.journal.path} and {when}"
            )

    def left(self) -> int:
        """How many entries were not sent yet."""
        return sum(1 for _ in self.journal.every_line(self.sender.sent))

    def _models_left(self) -> list[str]:
        """The folders of models that were not sent yet."""
        lines = self.journal.every_line(self.sender.sent)
        return [parsed(line)["model"] for line, _ in lines if line.startswith(b'{"model"')]

    def _append(self, entry: dict[str, Any]) -> None:
        try:
            self.journal.append(entry)
        except OSError as error:  # a full disk: whoever writes what matters will say so
            if not self._warned:
                log.warning(
                    f"tracking: {self.journal.path} cannot be written ({error.strerror}): the"
                    " record has a gap"
                )
            self._warned = True


def unsent(folder: Path) -> bool:
    """Whether the run recorded in `folder` has entries that its tracker lacks."""
    journal = Journal(folder)
    return journal.size > journal.state().get("sent", 0)


def send_rest(folder: Path) -> None:
    """Sends what the tracker lacks of the run recorded in `folder`, if there is such a thing; the
    run's status stays.
    """
    if unsent(folder):
        Tracker(folder).close(None)


def with_credentials(uri: str, environment: Mapping[str, str]) -> str:
    """A store's address as it was before its password was left out of run.json: that of
    MLFLOW_TRACKING_URI, if it is that one.
    """
    given = environment.get("MLFLOW_TRACKING_URI", uri)
    return given if redacted(given) == uri else uri


class Clock:
    """Milliseconds since 1970 that never run backwards: where the machine's clock is set back, time
    goes on from the last moment that was told, so that what came later is later. What the clock
    says counts again for the next attempt.
    """

    def __init__(self) -> None:
        self._last = self._ahead = 0

    def now(self) -> int:
        time_ns = time.time_ns() + self._ahead
        self._ahead += max(0, self._last - time_ns)
        self._last = max(self._last, time_ns)
        return self._last // 1_000_000


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder; 0 without it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
