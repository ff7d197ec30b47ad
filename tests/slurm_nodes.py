"""A real Slurm of several nodes on one machine: munged, slurmctld and a slurmd a node, each node in
namespaces of its own.

Every node has its own network address, host name, processes, /dev/shm and temporary folder; the
controller sits in a network namespace too and holds the bridge, so nothing of the host's network is
touched. When the first process of a namespace is killed, all its processes and its network go: that
is how it is torn down, and how a node loses its power.
"""

import os
import pwd
import shutil
import stat
import subprocess
import time
from pathlib import Path

from c2srt.node_folder import CACHES

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "nsenter", "unshare")

CONF = """
ClusterName=c2srt
SlurmctldHost=control(10.77.0.254)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={work}/munge/sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={work}/state
SlurmdSpoolDir={work}/spool/%n
SlurmctldPidFile={work}/control.pid
SlurmdPidFile={work}/slurmd-%n.pid
SlurmctldLogFile={work}/control.log
SlurmdLogFile={work}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=1,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
MinJobAge=3600
SlurmdTimeout=12
MessageTimeout=10
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n[1-{count}] CPUs=4 RealMemory=8000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes=n[1-{count}] Default=YES MaxTime=INFINITE State=UP \
PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=n[1-{count}] MaxTime=INFINITE State=UP \
PriorityTier=10 PreemptMode=OFF
"""

GPUS = 2
"""A node: devices that Slurm deals, and nothing else."""

CONTROL = """
hostname control; mount --bind {work}/hosts /etc/hosts
ip link set lo up; ip link add bridge type bridge; ip addr add 10.77.0.254/24 dev bridge; \
ip link set bridge up
runuser -u munge -- munged --key-file={work}/munge/key --socket={work}/munge/sock \
--pid-file={work}/munge/pid     --log-file={work}/munge/log --seed-file={work}/munge/seed
slurmctld -D -f {work}/slurm.conf -c & wait
"""

NODE = """
hostname {name}; mount --bind {work}/hosts /etc/hosts; mount -t tmpfs -o size=2g tmpfs /dev/shm
mount --bind {work}/disk/{name} {work}/tmp
ip link set lo up
until ip addr add {address}/24 dev eth0 2>/dev/null; do sleep 0.05; done
ip link set eth0 up
slurmd -D -f {work}/slurm.conf -N {name} & wait
"""


def why_not() -> str | None:
    """What this machine lacks for a Slurm of its own; None if it has everything."""
    if os.geteuid():
        return "needs root, for namespaces"
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking:
        return f"needs {', '.join(lacking)}: apt-get install slurm-wlm munge iproute2"
    command = ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "true"]
    tried = subprocess.run(command, capture_output=True, text=True)
    return f"namespaces are refused here: {tried.stderr.strip()}" if tried.returncode else None


class SlurmNodes:
    """The cluster; as a context it is down at the end. `work` must be a short path: Ray's sockets
    lie below it.
    """

    def __init__(self, work: Path, count: int = 3) -> None:
        self.work, self.count, self.holders = work, count, {}
        self.names = [f"n{number}" for number in range(1, count + 1)]

    def __enter__(self) -> "SlurmNodes":
        try:
            self.prepare()
            self.hold("control", CONTROL.format(work=self.work))
            for name in self.names:
                self.plug_in(name)
            self.wait_for_nodes(self.count)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.holders.values():
            process.kill()
            process.wait()
        self.holders.clear()

    def prepare(self) -> None:
        """The configuration, a fresh key for munge, and each node's disk."""
        for folder in (
            "munge",
            "state",
            "tmp",
            *(f"{kind}/{name}" for kind in ("spool", "disk") for name in self.names),
        ):
            (self.work / folder).mkdir(parents=True)
        (self.work / "slurm.conf").write_text(
            CONF.format(work=self.work, count=self.count, gpus=GPUS)
        )
        (self.work / "gres.conf").write_text(f"Name=gpu File={self.work}/gpu[0-{GPUS - 1}]\n")
        for number in range(
            GPUS
        ):  # slurmd takes nothing but character devices; these are /dev/null's
            os.mknod(self.work / f"gpu{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        hosts = [
            "127.0.0.1 localhost",
            "10.77.0.254 control",
            *(f"{self.address(name)} {name}" for name in self.names),
        ]
        (self.work / "hosts").write_text("\n".join(hosts) + "\n")
        (self.work / "munge/key").write_bytes(os.urandom(1024))
        owner = pwd.getpwnam("munge")
        for path in (self.work / "munge", self.work / "munge/key"):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        (self.work / "munge").chmod(0o711)
        (self.work / "munge/key").chmod(0o400)
        self.work.chmod(0o755)

    def address(self, name: str) -> str:
        return f"10.77.0.{name[1:]}"

    def hold(self, name: str, script: str) -> None:
        """Runs a script as the first process of new namespaces; killing `unshare` kills everything
        in them.
        """
        log = (self.work / f"{name}.out").open("a")
        self.holders[name] = subprocess.Popen(
            [
                "unshare",
                "--net",
                "--uts",
                "--ipc",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "bash",
                "-c",
                script,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def inside(self, name: str) -> int:
        """Process id, seen from the host, of the first process in a holder's namespaces."""
        path = Path(f"/proc/{self.holders[name].pid}/task/{self.holders[name].pid}/children")
        for _ in range(100):
            if found := path.read_text().split():
                return int(found[0])
            time.sleep(0.05)
        raise RuntimeError(f"{name} did not start: {(self.work / f'{name}.out').read_text()}")

    def plug_in(self, name: str) -> None:
        """Boots a node and lays its cable to the controller's bridge."""
        self.hold(name, NODE.format(work=self.work, name=name, address=self.address(name)))
        for _ in range(100):  # until the controller has its bridge
            if not self.link("show", "bridge"):
                break
            time.sleep(0.05)
        if self.link(
            "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(self.inside(name))
        ) or self.link("set", name, "master", "bridge", "up"):
            raise RuntimeError(f"no cable to {name}")

    def link(self, *arguments: str) -> int:
        """`ip link …` in the controller's network; returns the exit status."""
        network = ["nsenter", f"--target={self.inside('control')}", "--net"]
        return subprocess.run([*network, "ip", "link", *arguments], capture_output=True).returncode

    @staticmethod
    def enter(pid: int) -> list[str]:
        return ["nsenter", f"--target={pid}", "--net", "--uts", "--ipc", "--mount", "--pid"]

    def run(
        self,
        *command: str,
        node: str = "control",
        check: bool = True,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> str:
        """What a command prints that runs on the controller (or a node)."""
        found = subprocess.run(
            [
                *self.enter(self.inside(node)),
                *(["--wd=" + str(cwd)] if cwd else []),
                "--",
                *command,
            ],
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | {"SLURM_CONF": f"{self.work}/slurm.conf"} | (environment or {}),
        )
        if check and found.returncode:
            raise RuntimeError(f"{' '.join(command)}: {found.stderr}")
        return found.stdout

    def wait_for_nodes(self, count: int, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while (
            len(
                self.run(
                    "sinfo", "-h", "-N", "-p", "main", "-t", "idle", "-o", "%N", check=False
                ).split()
            )
            < count
        ):
            if time.monotonic() > deadline:
                logs = [*self.work.glob("*.log"), *self.work.glob("*.out")]
                raise RuntimeError("\n".join(path.read_text()[-2000:] for path in logs))
            time.sleep(0.1)

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says, as a dict."""
        words = self.run("scontrol", "show", "job", "-o", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def cut_power(self, name: str) -> None:
        """The node is gone without a word: first its network, then everything on it."""
        self.link("del", name)
        self.holders[name].kill()
        self.holders.pop(name).wait()

    def processes(self, name: str) -> list[str]:
        """Command lines of what runs on a node besides Slurm itself."""
        lines = self.run("ps", "-eo", "args", "--no-headers", node=name).splitlines()
        own = ("slurmd", "bash -c", "ps -eo")
        return [line for line in lines if not any(word in line for word in own)]

    def listening(self, name: str) -> set[str]:
        """Addresses at which something other than Slurm listens on a node."""
        lines = self.run("ss", "-Hltnp", node=name).splitlines()
        own = ("slurmd", "slurmstepd", "srun")
        return {
            line.split()[3].rpartition(":")[0]
            for line in lines
            if not any(name in line for name in own)
        }

    def temporary(self, name: str) -> list[str]:
        """What lies in a node's temporary folder, but for compiled kernels, which are kept."""
        folder = self.work / "disk" / name
        kept = folder / f"c2srt-{os.getuid()}"
        below = [path for path in kept.glob("*/*") if path.parent.name not in CACHES.values()]
        found = [path for path in folder.iterdir() if path != kept] + below
        return [str(path.relative_to(folder)) for path in found]
