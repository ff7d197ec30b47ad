"""Starts Ray over a Slurm allocation, runs one job on it and takes everything down: what the
scripts in slurm/ end in.

    exec python -m cluster.launch train data=openimages … -- "$@"

(keys of the script, then those of the command line)

    launcher (batch script, first node)
        ├── srun ──> cluster.launch_node on every node ──> `ray start`
        └──> python -m cluster.train …  once every node has joined

The two sides talk over srun's pipes, in lines: a node says "n1 hello 10.0.0.1 16 8" (address, CPUs,
GPUs), "n1 joined", "n1 beat", "n1 signal 15", "n1 retry 1 …", "n1 ended 1 …"; the launcher says
"head 10.0.0.1", then "join" once the head is up, and closing the pipe means stop.

Exit status: the job's own; 75 when it was given back to Slurm's queue unfinished (SIGUSR1 before
the time limit, SIGTERM of a preemption, a node or Ray lost), or should have been but the cap is
reached; 143 cancelled; 1 Ray did not start; 2 bad input. Settings are environment variables that
slurm/site.sh exports (`Site`). Standard library only: it also runs outside a container.
"""

import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from c2srt.surroundings import show_everything
from cluster.launch_node import BEAT_SECONDS, adopt_orphans, job_state, kill_descendants

BAD_INPUT, REQUEUE, CANCELLED, NOT_STARTED = 2, 75, 143, 1
JOBS = {
    "shard": "cluster.shard",
    "audit": "cluster.audit",
    "teacher": "cluster.teacher",
    "train": "cluster.train",
    "evaluate": "cluster.evaluate",
    "text": "c2srt.cli text",
    "relations": "c2srt.cli relations",
    "tables": "c2srt.cli tables",
}
WITHOUT_RAY, A_WORKER_A_CPU = ("text", "relations"), ("shard", "audit", "teacher")
WITHOUT_GPUS = ("shard", "audit", *WITHOUT_RAY)
SILENT_SECONDS, PROGRESS_SECONDS = 60, 10


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} launch: {text}", flush=True)


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


# --- what to run


def job_keys(job: str, defaults: list[str], own: list[str]) -> list[str]:
    """The script's keys without those that the command line gives too, the array's, the command
    line's.

    Another data set than the script's (data=…) drops the script's folders (data.*, work), which are
    not for it.
    """
    rows, own = split_rows(own)
    given = {key.partition("=")[0] for key in own}
    kept = [
        key
        for key in defaults
        if (name := key.partition("=")[0]) not in given
        and not ("data" in given and (name == "work" or name.startswith("data.")))
    ]
    if "SLURM_ARRAY_TASK_ID" not in os.environ:
        return kept + own
    values = dict(key.split("=", 1) for key in own if "=" in key)
    return kept + own + array_keys(job, int(os.environ["SLURM_ARRAY_TASK_ID"]), rows, values)


def split_rows(own: list[str]) -> tuple[str | None, list[str]]:
    """Takes `--rows FILE` out of the command line."""
    if "--rows" not in own:
        return None, own
    at = own.index("--rows")
    if len(own) < at + 2 or "SLURM_ARRAY_TASK_ID" not in os.environ:
        raise Refused(
            "--rows needs a file, and an array: slurm/submit.sh --array=1-5 slurm/openimages.sh"
            " --rows slurm/ablations.txt"
        )
    return own[at + 1], own[:at] + own[at + 2 :]


def array_keys(job: str, task: int, rows: str | None, own: dict[str, str]) -> list[str]:
    """An array task's own folder and its seed, or the keys in its row of the file; evaluation reads
    what that training wrote, and tables share their rows.
    """
    if job == "tables":
        place = task - int(os.environ["SLURM_ARRAY_TASK_MIN"]) + 1
        return [f"part={place}/{os.environ['SLURM_ARRAY_TASK_COUNT']}"]
    name, keys = (f"seed-{task}", [f"seed={task}"]) if rows is None else row(rows, task)
    parent = own.get(
        "out",
        {
            "train": "${work}/train",
            "evaluate": "${work}/evaluation",
            "teacher": "${work}/teacher",
        }.get(job),
    )
    if parent is None:
        raise Refused(
            f"{job} as an array needs out=…: each task writes to a folder of its own below it"
        )
    if job == "evaluate":
        keys = [] if "checkpoint" in own else [f"checkpoint=${{work}}/train/{name}/model"]
    return [*keys, f"out={parent}/{name}"]


def row(file: str, number: int) -> tuple[str, list[str]]:
    """Row `number`, from 1, of a file with a name and keys a line (empty lines and # comments do
    not count).
    """
    try:
        lines = [
            words
            for line in Path(file).read_text(encoding="utf-8").splitlines()
            if (words := shlex.split(line, comments=True))
        ]
    except (OSError, ValueError) as error:
        raise Refused(f"--rows {file}: {error}") from error
    if not 1 <= number <= len(lines):
        raise Refused(
            f"--rows {file} has {len(lines)} rows and this is array task {number}: take"
            f" --array=1-{len(lines)}"
        )
    return lines[number - 1][0], lines[number - 1][1:]


def worker_keys(job: str, nodes: list["Node"], site: Site) -> list[str]:
    """How wide the job is, from the allocation: a worker a GPU (or `cpu_workers` a node) for
    models, a worker a CPU for data.
    """
    gpus = sum(node.gpus for node in nodes)
    if job in A_WORKER_A_CPU:
        return [f"workers={sum(node.cpus for node in nodes)}"]
    workers = [f"workers={gpus or site.cpu_workers * len(nodes)}"]
    return [*workers, "gpus_per_worker=1"] if gpus and job in ("train", "tables") else workers


def check_room(job: str, keys: list[str], nodes: list["Node"]) -> None:
    """Raises Refused if the nodes have too few CPUs or GPUs for the job's workers: more nodes will
    not come.
    """
    given = dict(key.split("=", 1) for key in keys if "=" in key)
    if job in A_WORKER_A_CPU:
        return
    try:
        cpus, gpus = float(given.get("cpus_per_worker", 1)), float(given.get("gpus_per_worker", 0))
        least = int(given.get("min_workers", given["workers"]))
    except ValueError:
        return  # Hydra's to say, or to work out
    room = sum(
        int(min(node.cpus / cpus if cpus else least, node.gpus / gpus if gpus else least))
        for node in nodes
    )
    if room < least:
        have = ", ".join(f"{node.name} has {node.cpus} CPUs and {node.gpus} GPUs" for node in nodes)
        raise Refused(
            f"{have}: room for {room} of {least} workers with {cpus:g} CPUs and {gpus:g} GPUs each;"
            " ask for more with --cpus-per-task (or SBATCH_CPUS_PER_GPU in slurm/site.sh), or give"
            " workers=…"
        )


# --- Ray on the nodes


@dataclass
class Node:
    """A node of the allocation, as far as it has told."""

    name: str
    address: str = ""
    cpus: int = 0
    gpus: int = 0
    joined: bool = False
    heard: float = field(default_factory=time.monotonic)


class Cluster:
    """Ray over the allocation's nodes; as a context it is gone at the end, whatever happens."""

    def __init__(
        self, site: Site, events: SimpleQueue, check: Callable[[list[Node]], None]
    ) -> None:
        """`check` looks at the nodes before Ray starts on them, and raises Refused if they will not
        do.
        """
        names = command_output(
            "scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]
        ).split()
        self.nodes, self.site, self.events, self.check = (
            {name: Node(name) for name in names},
            site,
            events,
            check,
        )
        self.port = 16000 + int(os.environ["SLURM_JOB_ID"]) % 1000 * 16
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
        count = str(len(self.nodes))
        self.srun = subprocess.Popen(
            [
                "srun",
                f"--nodes={count}",
                f"--ntasks={count}",
                "--ntasks-per-node=1",
                "--overlap",
                "--cpu-bind=none",
                "--mpi=none",
                "--kill-on-bad-exit=0",
                *self.site.python("-m", "cluster.launch_node", str(self.port), str(self.logs)),
            ],
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
        for line in self.srun.stdout:
            source, _, words = line.strip().partition(" ")
            if source in self.nodes:
                self.nodes[source].heard = time.monotonic()
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
            source, words = next_event(self.events, 1)
            if words[:1] == ["hello"]:
                self.greet(self.nodes[source], words[1:])
            elif words == ["joined"]:
                self.nodes[source].joined = True
                say(
                    f"ray {'head' if source == self.head else 'worker'} on {source}"
                    f" ({self.nodes[source].address}) is up"
                )
                if source == self.head:
                    self.tell("join")
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
            self.srun.stdin.write(line + "\n")
            self.srun.stdin.flush()
        except BrokenPipeError:
            pass  # its end is an event of its own

    def silent(self, seconds: float) -> list[str]:
        return [
            node.name for node in self.nodes.values() if time.monotonic() - node.heard > seconds
        ]

    def __exit__(self, *_: object) -> None:
        begun = time.monotonic()
        with suppress(BrokenPipeError):
            self.srun.stdin.close()
        try:
            self.srun.wait(20)
        except subprocess.TimeoutExpired:
            say(
                "the nodes did not stop within 20 s"
                f" ({', '.join(self.silent(2 * BEAT_SECONDS)) or 'none'} silent): killing srun"
            )
        kill_descendants()
        say(f"ray is stopped ({time.monotonic() - begun:.1f} s)")


# --- the job


def run_job(
    command: list[str], events: SimpleQueue, cluster: Cluster | None, site: Site
) -> Outcome:
    """Runs the command to its end, or to the end that a signal or a failure gives it."""
    process = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)
    threading.Thread(
        target=lambda: events.put(("job", ["ended", str(process.wait())])), daemon=True
    ).start()
    stopped_by, deadline, told = None, float("inf"), set()
    try:
        while True:
            source, words = next_event(events, 1)
            if source == "job":
                return judge(int(words[1]), stopped_by, cluster)
            if words[:1] == ["ended"]:
                return Outcome(
                    REQUEUE,
                    f"Ray on {source} ended with {' '.join(words[1:])} (more in {cluster.logs}/)",
                    again=True,
                )
            if words[:1] == ["signal"] and stopped_by is None:
                if (state := job_state()) != "RUNNING":
                    return Outcome(
                        CANCELLED,
                        f"{signal_name(words[1])}, and Slurm says {state}: stopping at once",
                    )
                stopped_by, deadline = int(words[1]), time.monotonic() + site.save_seconds
                say(
                    f"{signal_name(words[1])} from {source}: the job may save and leave, within"
                    f" {site.save_seconds:.0f} s"
                )
                process.send_signal(stopped_by)
            if time.monotonic() > deadline:
                late = (
                    f"the job had not left {site.save_seconds:.0f} s after"
                    f" {signal_name(stopped_by)}"
                )
                return Outcome(REQUEUE, late, again=True)
            for name in set(cluster.silent(SILENT_SECONDS) if cluster else ()) - told:
                told.add(name)
                say(
                    f"{name} has been silent for {SILENT_SECONDS} s; if the node is lost Slurm will"
                    " start the job again"
                )
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def judge(status: int, stopped_by: int | None, cluster: Cluster | None) -> Outcome:
    """What a job's exit status means. A job that died of the signal that told it to stop is
    unfinished, like one that saved.
    """
    if status == 0:
        return Outcome(0, "the job has finished")
    if status == REQUEUE or (stopped_by and status in (-stopped_by, stopped_by, 128 + stopped_by)):
        return Outcome(REQUEUE, f"the job left unfinished (status {status})", again=True)
    if cluster and (lost := lost_nodes(cluster)):
        return Outcome(
            REQUEUE,
            f"the job failed with {status}, and {', '.join(lost)} no longer answers",
            again=True,
        )
    return Outcome(status if status > 0 else 128 - status, f"the job failed with {status}")


def lost_nodes(cluster: Cluster) -> list[str]:
    """Nodes that say nothing for three beats from now on."""
    asked = time.monotonic()
    while lost := [node.name for node in cluster.nodes.values() if node.heard < asked]:
        if time.monotonic() > asked + 3 * BEAT_SECONDS:
            break
        time.sleep(0.2)
    return lost


# --- Slurm


def requeue(outcome: Outcome, site: Site) -> None:
    """Gives the unfinished job back to Slurm, up to `max_requeues` times."""
    before = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    if (state := job_state()) != "RUNNING":
        say(f"not requeued by hand: Slurm says {state}")
    elif before >= site.max_requeues:
        say(
            f"not requeued: it has been {before} times, C2SRT_MAX_REQUEUES={site.max_requeues};"
            " submit the same line to go on"
        )
    else:
        say(f"requeue number {before + 1}")
        found = subprocess.run(
            ["scontrol", "requeue", os.environ["SLURM_JOB_ID"]],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        if found.returncode:
            say(f"scontrol requeue failed ({found.stderr.strip()}); submit the same line to go on")


def command_output(*command: str) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, encoding="utf-8", errors="replace"
    ).stdout


def next_event(events: SimpleQueue, seconds: float) -> tuple[str, list[str]]:
    """The next (source, words), or ("", []) after `seconds`."""
    try:
        return events.get(timeout=seconds)
    except Empty:
        return "", []


def signal_name(number: int | str) -> str:
    return signal.Signals(int(number)).name


def describe_attempt() -> str:
    """Job, attempt, nodes and the wait in the queue."""
    names, number = os.environ, os.environ["SLURM_JOB_ID"]
    array = "SLURM_ARRAY_TASK_ID" in names
    task = (
        f" (task {names['SLURM_ARRAY_TASK_ID']} of array {names['SLURM_ARRAY_JOB_ID']})"
        if array
        else ""
    )
    shown = command_output("scontrol", "show", "job", "-o", number)
    submitted, started = (
        re.search(rf"{name}=\S+T(\S+)", shown) for name in ("SubmitTime", "StartTime")
    )
    times = f"; submitted {submitted[1]}, started {started[1]}" if submitted and started else ""
    return (
        f"job {number}{task}, attempt {int(names.get('SLURM_RESTART_COUNT', 0)) + 1}, on"
        f" {names['SLURM_JOB_NODELIST']}{times}"
    )


def main(arguments: list[str]) -> int:
    """Runs one job; returns the exit status."""
    show_everything()
    events: SimpleQueue = SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: events.put(("Slurm", ["signal", str(number)])))
    adopt_orphans()
    try:
        if arguments[:1] == [] or arguments[0] not in JOBS or "SLURM_JOB_ID" not in os.environ:
            raise Refused(
                f"inside a Slurm job: python -m cluster.launch {'|'.join(JOBS)} [key=value …] --"
                " [key=value …]"
            )
        job, site = arguments[0], Site.from_environment()
        at = arguments.index("--") if "--" in arguments else len(arguments)
        keys = job_keys(job, arguments[1:at], arguments[at + 1 :])
        say(describe_attempt())
        outcome = run(job, keys, site, events)
    except Refused as error:
        outcome = Outcome(BAD_INPUT, str(error))
    say(f"{outcome.reason}; exit status {outcome.status}")
    if outcome.again:
        requeue(outcome, site)
    return outcome.status


def run(job: str, keys: list[str], site: Site, events: SimpleQueue) -> Outcome:
    """The job, inside Ray if it needs it."""
    module = JOBS[job].split()
    if job in WITHOUT_GPUS and (gpus := int(os.environ.get("SLURM_GPUS_ON_NODE") or 0)):
        say(
            f"this job computes on CPUs alone, and holds {gpus} GPUs: slurm/submit.sh submits it"
            " without"
        )
    if job in WITHOUT_RAY:
        say(f"{job} {shlex.join(keys)}")
        return run_job(site.python("-m", *module, *keys), events, None, site)

    def all_keys(nodes: list[Node]) -> list[str]:
        return worker_keys(job, nodes, site) + keys

    with Cluster(site, events, lambda nodes: check_room(job, all_keys(nodes), nodes)) as cluster:
        if failed := cluster.start():
            return failed
        os.environ.update(RAY_ADDRESS=cluster.address, C2SRT_NODES=str(len(cluster.nodes)))
        keys = all_keys(list(cluster.nodes.values()))
        say(f"{job} {shlex.join(keys)}")
        return run_job(site.python("-m", *module, *keys), events, cluster, site)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
