"""The part of cluster/launch.py that srun starts on every node: holds the node's Ray, and leaves
nothing of it behind.

Started as `python -m c2srt.cluster.launch_node <first port> <log folder>`; the lines that it speaks
are described in cluster/launch.py.
"""

import ctypes
import fcntl
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from c2srt.cluster.ports import free_block
from c2srt.surroundings import show_everything

BEAT_SECONDS, ASK_SECONDS = 5, 15
START_ATTEMPTS = 5
"""Of Ray on a node, in C2SRT_JOIN_SECONDS together."""
OBJECT_STORE_BYTES = 256 << 20  # jobs pass paths and counts through it, never images
PORTS = (
    "port",
    "dashboard-port",
    "ray-client-server-port",
    "node-manager-port",
    "object-manager-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)
"""Ports of Ray's own services, from a free block (cluster/ports.py); workers bind to free ones that
the system gives.
"""
HEAD_ONLY = 3
ALIVE = ("RUNNING", "COMPLETING", "SUSPENDED", "CONFIGURING", "STOPPED")
PR_SET_CHILD_SUBREAPER = 36
SIOCGIFADDR = 0x8915


def main(first_port: int, logs: Path) -> int:
    """Starts Ray when told to, the head first, and holds it until the launcher's pipe closes, Ray
    ends, or Slurm ends the job.
    """
    show_everything()
    adopt_orphans()
    name, job = os.environ["SLURMD_NODENAME"], os.environ["SLURM_JOB_ID"]
    temporary = Path(os.environ.get("C2SRT_TMP", "/tmp")) / f"r{job}"
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: signals.append(number))
    speak(name, "hello", own_address(name), os.environ["SLURM_CPUS_ON_NODE"], gpu_count())
    is_head = name == os.environ["C2SRT_HEAD"]
    told = [sys.stdin.readline().partition(" ")[2].strip() for _ in range(1 if is_head else 2)]
    if not all(told):
        return 0
    shutil.rmtree(temporary, ignore_errors=True)
    remove_what_dead_jobs_left(temporary.parent)
    temporary.mkdir(mode=0o700)
    try:
        head = None if is_head else ":".join(told)
        status = start(name, head, first_port, temporary, logs / f"{name}.log", signals)
        if status:
            with suppress(
                OSError, shutil.Error
            ):  # what there is: Ray may have died before it wrote any
                shutil.copytree(
                    temporary / "session_latest/logs", logs / f"{name}-session", dirs_exist_ok=True
                )
        return status
    finally:
        kill_descendants()
        shutil.rmtree(temporary, ignore_errors=True)


def start(
    name: str, head: str | None, first_port: int, temporary: Path, log: Path, signals: list[int]
) -> int:
    """Starts Ray, some times over if it does not come up, each on ports that are free by then, and
    holds it; returns the exit status.
    """
    for left in reversed(range(START_ATTEMPTS)):
        ports = free_block(first_port, len(PORTS))
        with log.open("w", encoding="utf-8") as output:
            ray = subprocess.Popen(
                ray_command(name, head, ports, temporary),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        joined = False
        for event in watch(ray, log, signals):
            joined = joined or event == "joined"
            speak(name, event, *ports[: event == "joined"])
        if ray.poll() is None:
            return 0
        speak(
            name,
            "ended" if joined or not left else "retry",
            ray.returncode,
            *last_line(log).split(),
        )
        kill_descendants()
        if joined:
            break
    await_launcher()
    return 1


def await_launcher() -> None:
    """Until the launcher closes its pipe. Where its node, the job's first, is gone, nobody would:
    this node then gives the job back to Slurm's queue.
    """
    asked = 0.0
    while not closed(sys.stdin, 1):
        if time.monotonic() > asked + ASK_SECONDS:
            asked = time.monotonic()
            if (left := job_nodes()) and os.environ["C2SRT_HEAD"] not in left:
                subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]])
                return


def watch(ray: subprocess.Popen, log: Path, signals: list[int]) -> Iterator[str]:
    """Yields what there is to tell, until Ray ends, or should end: the launcher's pipe is closed,
    or Slurm ends the job.
    """
    joined, beaten = False, 0.0
    while ray.poll() is None and not closed(sys.stdin, 0.2):
        if not joined and "Ray runtime started" in log.read_text(
            encoding="utf-8", errors="replace"
        ):
            joined = True
            yield "joined"
        if time.monotonic() > beaten + BEAT_SECONDS:
            beaten = time.monotonic()
            yield "beat"
        while signals:
            if (number := signals.pop()) == signal.SIGTERM and job_state() != "RUNNING":
                # the job is cancelled, lost a node or is requeued; while it runs the launcher
                # decides
                return
            yield f"signal {int(number)}"


def last_line(log: Path) -> str:
    """The last line that is not empty."""
    return next(
        (
            line
            for line in reversed(log.read_text(encoding="utf-8", errors="replace").splitlines())
            if line.strip()
        ),
        "",
    )


def closed(pipe, seconds: float) -> bool:
    """Whether the other end has closed the pipe; waits `seconds` for it."""
    readable, _, _ = select.select([pipe], [], [], seconds)
    return bool(readable) and not pipe.readline()


def speak(*words: object) -> None:
    """One line to the launcher. When nobody listens the pipe from it is closed too, which is what
    ends this process.
    """
    with suppress(OSError):
        sys.stdout.write(" ".join(map(str, words)) + "\n")
        sys.stdout.flush()


def ray_command(name: str, head: str | None, ports: list[int], temporary: Path) -> list[str]:
    """`ray start` for this node, as the head itself where there is none yet; sets the environment
    that it needs.
    """
    os.environ.update(RAY_TMPDIR=str(temporary), PYTHONUNBUFFERED="1")
    named = zip(PORTS, ports, strict=True)
    own = [f"--{service}={port}" for service, port in named][HEAD_ONLY if head else 0 :]
    command = [
        sys.executable,
        "-m",
        "c2srt.cluster.patience",
        "start",
        "--block",
        f"--node-ip-address={own_address(name)}",
        *own,
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--num-cpus={os.environ['SLURM_CPUS_ON_NODE']}",
        f"--num-gpus={gpu_count()}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--temp-dir={temporary}",
        "--disable-usage-stats",
        "--log-color=false",
    ]
    if head:
        return [*command, f"--address={head}"]
    write_token(temporary / "token")
    dashboard = os.environ.get("C2SRT_DASHBOARD_HOST", "127.0.0.1")
    shown = (
        ["--include-dashboard=false"] if dashboard == "none" else [f"--dashboard-host={dashboard}"]
    )
    return [*command, "--head", *shown, "--no-monitor"]  # nothing is scaled: a process less


def write_token(path: Path) -> None:
    """For the owner of the job, who may want to look at Ray's dashboard."""
    path.touch(mode=0o600)
    path.write_text(os.environ["RAY_AUTH_TOKEN"], encoding="utf-8")


def own_address(name: str) -> str:
    """Loopback if this is the only node, else of the network interface C2SRT_INTERFACE, else what
    its name resolves to.
    """
    interface = os.environ.get("C2SRT_INTERFACE")
    if os.environ["SLURM_JOB_NUM_NODES"] == "1":
        return "127.0.0.1"
    if not interface:
        return socket.gethostbyname(name)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        found = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", interface.encode()))
    return socket.inet_ntoa(found[20:24])


def gpu_count() -> int:
    """GPUs that Slurm gave this job on this node."""
    return int(os.environ.get("SLURM_GPUS_ON_NODE") or 0)


def job_state(number: str | None = None) -> str:
    """What Slurm says of a job (this one): RUNNING, CANCELLED, NODE_FAIL …; RUNNING when Slurm
    cannot be asked, FORGOTTEN when the job ended so long ago that Slurm does not know it any more.
    """
    try:
        shown = asked_of_slurm("show", "job", "-o", number or os.environ["SLURM_JOB_ID"])
    except (OSError, subprocess.TimeoutExpired):
        return "RUNNING"
    found = re.search(r"JobState=(\w+)", shown.stdout)
    return found[1] if found else "FORGOTTEN" if "Invalid job id" in shown.stderr else "RUNNING"


def job_nodes() -> list[str]:
    """The nodes that this job has now; [] when Slurm cannot be asked."""
    try:
        shown = asked_of_slurm("show", "job", "-o", os.environ["SLURM_JOB_ID"])
        found = re.search(r" NodeList=(\S+)", shown.stdout)
        return asked_of_slurm("show", "hostnames", found[1]).stdout.split() if found else []
    except (OSError, subprocess.TimeoutExpired):
        return []


def asked_of_slurm(*what: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["scontrol", *what], capture_output=True, encoding="utf-8", errors="replace", timeout=10
    )


# --- nothing left behind


def remove_what_dead_jobs_left(folder: Path, state: Callable[[str], str] = job_state) -> None:
    """Temporary folders of this user's jobs that a power cut kept from tidying up."""
    for path in folder.glob("r[0-9]*"):
        with suppress(OSError):
            if (
                path.name[1:].isdigit()
                and path.stat().st_uid == os.getuid()
                and state(path.name[1:]) not in ALIVE
            ):
                shutil.rmtree(path, ignore_errors=True)


def adopt_orphans() -> None:
    """Makes this process the parent of descendants whose own parents die, so that none gets
    away.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants() -> list[int]:
    """Process ids below this one."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = int(
                (folder / "stat")
                .read_text(encoding="utf-8", errors="replace")
                .rpartition(")")[2]
                .split()[1]
            )
    found, left = [], [os.getpid()]
    while left:
        left = [pid for pid, parent in parents.items() if parent in left]
        found += left
    return found


def kill_descendants(seconds: float = 10) -> None:
    """Kills everything below this process, again and again until nothing is left."""
    deadline = time.monotonic() + seconds
    while (left := descendants()) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))
