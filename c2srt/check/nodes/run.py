"""One check: starts the probes, asks, judges, prints the table, writes the record."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from c2srt.check.nodes.course import Course
from c2srt.check.nodes.hub import Hub
from c2srt.check.nodes.judge import FAULT, Finding, judge
from c2srt.check.nodes.plan import Plan
from c2srt.check.nodes.probe import TOKEN, UNREACHABLE
from c2srt.check.nodes.table import page

RECORD = "cluster.json"
END_S = 8.0
"""For the probes to be gone once the coordinator has hung up."""
FAULTY = 1


class Probes(Protocol):
    """The probes that were started."""

    def words(self) -> dict[str, str]:
        """Why a probe that ended did so, by node, as far as it is known."""

    def ended(self) -> set[str]:
        """The nodes whose probes are known to have ended."""

    def end(self) -> None:
        """Nothing of them is left."""


Start = Callable[[Hub, Plan], Probes]


def check_nodes(
    names: Iterable[str],
    plan: Plan,
    start: Start,
    record: Path,
    address: str = "127.0.0.1",
    interrupted: Callable[[], str] = lambda: "",
) -> list[Finding]:
    """What is wrong with the nodes called `names`; the table is printed, and `record` written.
    `start` starts a probe on each, which connects to `address`.

    Raises UserError where the training's keys are wrong, Interrupted when told to end.
    """
    began = time.monotonic()
    hub = Hub(names, address, interrupted)
    try:
        probes = start(hub, plan)
        try:
            reports = Course(hub, plan, probes.words, probes.ended).run()
        finally:
            hub.close()
            probes.end()
    finally:
        hub.close()
    findings = judge(reports)
    seconds = time.monotonic() - began
    content = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": round(seconds, 1),
        "findings": [asdict(finding) for finding in findings],
        **reports.plain(),
    }
    print(page(reports, findings, seconds, written(record, content)), flush=True)
    return findings


def written(record: Path, content: dict) -> str:
    """Writes the record, whole or not at all; where it lies, or why it does not: a check of full
    disks goes on without.
    """
    temporary = record.with_name(f"{record.name}.tmp-{os.getpid()}")
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(record)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        return f"no record: {record} cannot be written ({error.strerror})"
    return f"record: {record}"


def sentences(findings: list[Finding]) -> str:
    """The faults, as one line; "" where there is none."""
    return "; ".join(str(finding) for finding in findings if finding.state == FAULT)


class Processes:
    """A process that starts one or many probes, and what was said on its way."""

    def __init__(self, command: list[str], hub: Hub, names: list[str]) -> None:
        """`names`: of the nodes, in the order of srun's tasks, whose numbers stand before lines."""
        self.names, self.said, self.exited = names, dict[str, str](), set[str]()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            env=os.environ | {TOKEN: hub.token},
        )
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        """Keeps each node's last words, in a thread: its own before what srun says of it."""
        assert self.process.stdout is not None, "it is a pipe"
        for line in self.process.stdout:
            number, colon, text = line.strip().partition(": ")
            if colon and number.isdigit() and int(number) < len(self.names):
                self.note(self.names[int(number)], text)
            elif len(self.names) == 1:
                self.note(self.names[0], line.strip())
            else:
                named = [name for name in self.names if f" {name}: task " in line]
                self.exited |= {*named}
                for name in named or self.names:
                    self.said.setdefault(name, line.strip())

    def note(self, name: str, text: str) -> None:
        """Of a probe that could not connect, nothing that comes later says more."""
        if text and UNREACHABLE not in self.said.get(name, ""):
            self.said[name] = text.removeprefix(f"{name} ")

    def words(self) -> dict[str, str]:
        return dict(self.said)

    def ended(self) -> set[str]:
        """All of them with the process, and those of which srun said so."""
        if self.process.poll() is None:
            return set(self.exited)
        self.reader.join(END_S)
        return set(self.names)

    def end(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(END_S)
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait()


def probe_words(name: str, hub: Hub, plan: Plan) -> list[str]:
    """What stands behind the module of a probe."""
    return [name, hub.address, str(hub.port), f"{plan.seconds:g}"]


class Here:
    """Probes on this machine, a process each."""

    def __init__(self, hub: Hub, plan: Plan) -> None:
        command = [sys.executable, "-m", "c2srt.check.nodes.probe"]
        self.started = [
            Processes([*command, *probe_words(name, hub, plan)], hub, [name]) for name in hub.names
        ]

    def words(self) -> dict[str, str]:
        return {name: said for each in self.started for name, said in each.words().items()}

    def ended(self) -> set[str]:
        return set[str]().union(*(each.ended() for each in self.started))

    def end(self) -> None:
        for each in self.started:
            each.end()
