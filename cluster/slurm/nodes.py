"""Ray over the nodes of an allocation."""

import os
import secrets
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, cast

from c2srt.cluster.launch_node import BEAT_SECONDS, job_nodes, job_state, kill_descendants
from c2srt.cluster.ports import first_of
from c2srt.cluster.slurm.site import (
    NOT_STARTED,
    REQUEUE,
    Outcome,
    Refused,
    Site,
    allocated_nodes,
    say,
    signal_name,
)

PROGRESS_SECONDS, LOOK_SECONDS = 10, 30


@dataclass
class Node:
    """A node of the allocation, as far as it has told."""

    name: str
    address: str = ""
    cpus: int = 0
    gpus: int = 0
    joined: bool = False
    last_seen: float = field(default_factory=time.monotonic)


class Cluster:
    """Ray over the allocation's nodes; as a context it is gone at the end, whatever happens."""

    def __init__(
        self,
        site: Site,
        events: SimpleQueue,
        check: Callable[[list[Node]], None],
        shrinks: bool = False,
    ) -> None:
        """`check` looks at the nodes before Ray starts on them, and raises Refused if they will not
        do; `shrinks`: whether the job can go on with fewer, as long as they will do.
        """
        names = allocated_nodes()
        self.nodes, self.site, self.events, self.check = (
            {name: Node(name) for name in names},
            site,
            events,
            check,
        )
        self.shrinks, self.lost = shrinks, set[str]()
        """Nodes that are gone from the allocation, or whose Ray is; the job goes on without."""
        self.looked = time.monotonic()
        self.first_port = self.port = first_of(int(os.environ["SLURM_JOB_ID"]))
        self.head = names[0]
        self.logs = Path(site.logs).absolute() / f"ray-{os.environ['SLURM_JOB_ID']}"

    def __enter__(self) -> "Cluster":
        # On one node Ray and the job keep to loopback, as on Windows and macOS: elsewhere Ray
        # listens on every interface.
        several = str(int(len(self.nodes) > 1))
        os.environ.update(
            RAY_AUTH_MODE="token",
            RAY_AUTH_TOKEN=secrets.token_hex(32),
            C2SRT_HEAD=self.head,
            RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=several,
        )
        self.logs.mkdir(parents=True, exist_ok=True)
        self.srun = subprocess.Popen(
            self.site.on_every_node(
                len(self.nodes),
                "c2srt.cluster.launch_node",
                str(self.first_port),
                str(self.logs),
                options=["--no-kill"],
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        threading.Thread(target=self.listen, daemon=True).start()
        return self

    def listen(self) -> None:
        """Turns the nodes' lines into events, in a thread."""
        for line in cast(IO[str], self.srun.stdout):
            source, _, words = line.strip().partition(" ")
            if source in self.nodes:
                self.nodes[source].last_seen = time.monotonic()
                self.events.put((source, words.split()))
            else:
                say(line.strip())
        self.events.put(("all nodes", ["ended", str(self.srun.wait())]))

    def start(self) -> Outcome | None:
        """Waits until every node has joined; returns an Outcome if that fails."""
        deadline, told = time.monotonic() + self.site.join_seconds, time.monotonic()
        while waiting := [node.name for node in self.nodes.values() if not node.joined]:
            if time.monotonic() > deadline:
                late = (
                    f"{', '.join(waiting)} did not join Ray within {self.site.join_seconds:.0f} s"
                )
                return Outcome(NOT_STARTED, f"{late}: see {self.logs}/")
            if time.monotonic() > told + PROGRESS_SECONDS:
                say(f"waiting for {', '.join(waiting)}")
                told = time.monotonic()
            if gone := self.taken():
                return Outcome(REQUEUE, f"{', '.join(gone)} is down, says Slurm", again=True)
            source, words = next_event(self.events, 1)
            if words[:1] == ["hello"]:
                self.greet(self.nodes[source], words[1:])
            elif words[:1] == ["joined"]:
                self.nodes[source].joined = True
                say(
                    f"ray {'head' if source == self.head else 'worker'} on {source}"
                    f" ({self.nodes[source].address}) is up"
                )
                if source == self.head:
                    self.port = int(words[1])
                    self.tell(f"join {self.port}")
            elif words[:1] == ["retry"]:
                say(f"ray on {source} did not start ({' '.join(words[1:])}): once more")
            elif words[:1] == ["signal"]:
                return Outcome(
                    REQUEUE,
                    f"{signal_name(words[1])} before the job began",
                    again=job_state() == "RUNNING",
                )
            elif words[:1] == ["ended"]:
                return Outcome(
                    NOT_STARTED,
                    f"Ray on {source} ended with {' '.join(words[1:])} (more in {self.logs}/)",
                )
        return None

    def greet(self, node: Node, words: list[str]) -> None:
        """Notes what a node has; once the head's address is known, all of them are told to
        start.
        """
        node.address, node.cpus, node.gpus = words[0], int(words[1]), int(words[2])
        if all(node.address for node in self.nodes.values()):
            have = (
                f"{node.name} ({node.cpus} CPUs, {node.gpus} GPUs)" for node in self.nodes.values()
            )
            say(f"all nodes have answered: {', '.join(have)}")
            self.check(list(self.nodes.values()))
            self.tell(f"head {self.nodes[self.head].address}")

    @property
    def address(self) -> str:
        return f"{self.nodes[self.head].address}:{self.port}"

    def tell(self, line: str) -> None:
        try:
            orders = cast(IO[str], self.srun.stdin)
            orders.write(line + "\n")
            orders.flush()
        except BrokenPipeError:
            pass  # its end is an event of its own

    def silent(self, seconds: float) -> list[str]:
        return [
            node.name
            for node in self.nodes.values()
            if node.name not in self.lost and time.monotonic() - node.last_seen > seconds
        ]

    def taken(self) -> list[str]:
        """Nodes that Slurm has taken from the job since the last look, which is asked for twice a
        minute.
        """
        if time.monotonic() < self.looked + LOOK_SECONDS:
            return []
        self.looked = time.monotonic()
        left = job_nodes()
        return [name for name in self.nodes if left and name not in {*left, *self.lost}]

    def enough_without(self, name: str) -> bool:
        """Whether the job may go on now that this node is gone, too: the head is there, and the
        other nodes have room for as many workers as `faults.min_workers` asks for (else all).
        """
        self.lost.add(name)
        try:
            self.check([node for node in self.nodes.values() if node.name not in self.lost])
        except Refused:
            return False
        return self.shrinks and self.head not in self.lost

    def __exit__(self, *_: object) -> None:
        begun = time.monotonic()
        with suppress(BrokenPipeError):
            cast(IO[str], self.srun.stdin).close()
        try:
            self.srun.wait(20)
        except subprocess.TimeoutExpired:
            say(
                "the nodes did not stop within 20 s"
                f" ({', '.join(self.silent(2 * BEAT_SECONDS)) or 'none'} silent): killing srun"
            )
        kill_descendants()
        say(f"ray is stopped ({time.monotonic() - begun:.1f} s)")


def next_event(events: SimpleQueue, seconds: float) -> tuple[str, list[str]]:
    """The next (source, words), or ("", []) after `seconds`."""
    try:
        return events.get(timeout=seconds)
    except Empty:
        return "", []
