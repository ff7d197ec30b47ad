"""Runs commands one after the other in this process: each is announced as a person would type it,
and timed.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from c2srt import hints
from c2srt.errors import UserError
from c2srt.evaluation.config import PROTOCOLS, versions_of
from c2srt.evaluation.results import RESULTS, read_results
from c2srt.files import write_json
from c2srt.interrupts import INTERRUPTED, SAVED
from c2srt.jobs import Jobs
from c2srt.lock import in_turn
from c2srt.progress import clock
from c2srt.tables.commands import (
    MARK,
    Command,
    Workspace,
    evaluate_trained,
    is_finished,
    key_of,
    prepare,
    train_and_evaluate,
)
from c2srt.tables.rows import Row, Trial

log = logging.getLogger(__name__)

LOCK = "prepare.lock"


@dataclass
class Runner:
    """`seconds` keeps what each verb took; `again` is the command to run when a job fails."""

    again: hints.Command
    jobs: Jobs
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, command: Command) -> None:
        """One command. Raises UserError if it fails, and ends the process with its status if a
        training was told to stop and saved.
        """
        with self.step(command.verb, hints.typed(command.verb, command.overrides)):
            status = self.jobs.named(command.verb)(command.overrides)
            if status in (SAVED, INTERRUPTED):
                raise SystemExit(status)
            if status:
                raise UserError(
                    f"{command.verb} ended with status {status}: see its message above, then run"
                    f" `{self.again}` again"
                )

    @contextmanager
    def step(self, name: str, what: str) -> Iterator[None]:
        """Says what is about to be done, and adds its seconds to `seconds[name]`."""
        log.info(f"\n── {name}\n   $ {what}")
        started = time.monotonic()
        yield
        took = time.monotonic() - started
        self.seconds[name] = self.seconds.get(name, 0.0) + took
        log.info(f"   {name} took {clock(took)}")


def prepare_clips(
    runner: Runner,
    workspace: Workspace,
    clips: list[int],
    rows: list[Row],
    controls: Sequence[Row] = (),
) -> None:
    """Features and graphs of each CLIP; processes that share the folders do it one after the other,
    the later ones find it done.
    """
    for clip in clips:
        with in_turn(workspace.of_clip(clip) / LOCK):
            for command in prepare(workspace, clip, rows, controls):
                runner.run(command)


def train_missing(runner: Runner, workspace: Workspace, todo: list[tuple[Row, Trial]]) -> None:
    """Trains and evaluates what is not finished, with a count and an estimate of what is left;
    evaluates again what is finished but was measured by other protocols.
    """
    missing = [pair for pair in todo if not is_finished(workspace, *pair)]
    log.info(f"\n{len(todo)} trained rows, {len(todo) - len(missing)} of them are finished")
    for pair in todo:
        if pair not in missing and is_outdated(workspace, *pair):
            runner.run(evaluate_trained(workspace, *pair))
    started = time.monotonic()
    for done, (row, trial) in enumerate(missing):
        left = (
            f", {clock((time.monotonic() - started) / done * (len(missing) - done))} left"
            if done
            else ""
        )
        log.info(
            f"\n══ {done + 1} of {len(missing)}{left}: {row.name}, CLIP {trial[0]}, seed {trial[1]}"
        )
        for command in train_and_evaluate(workspace, row, trial):
            runner.run(command)
        write_json(
            workspace.trial(row.run, trial) / MARK,
            {"key": key_of(workspace, row, trial), "row": row.name},
        )


def is_outdated(workspace: Workspace, row: Row, trial: Trial) -> bool:
    """Whether a finished row's results are of other protocols than `evaluate` measures today, or of
    one that was mended since.
    """
    folder = workspace.evaluation(row, trial)
    if not (folder / RESULTS).is_file():
        return False
    made_from = read_results(folder).get("made_from", {})
    typed = {hints.key_of(one) for one in workspace.commands.get("evaluate", [])}
    today = made_from.get("protocols") if "protocols" in typed else list(PROTOCOLS)
    return made_from.get("protocols") != today or made_from.get("versions", {}) != versions_of(
        today or ()
    )
