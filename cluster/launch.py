"""Starts Ray over a Slurm allocation, runs one job on it and takes everything down: what the
scripts in slurm/ end in.

    exec python -m c2srt.cluster.launch train data=openimages … -- "$@"

(keys of the script, then those of the command line)

    launcher (batch script, first node)
        ├── srun ──> c2srt.cluster.check_node on every node, before a training: are they fit for it?
        ├── srun ──> c2srt.cluster.launch_node on every node ──> `ray start`
        └──> python -m c2srt.cluster.train …  once every node has joined

The two sides talk over srun's pipes, in lines: a node says "n1 hello 10.0.0.1 16 8" (address, CPUs,
GPUs), "n1 joined 16016" (its Ray's first port), "n1 beat", "n1 signal 15", "n1 retry 1 …",
"n1 ended 1 …"; the launcher says "head 10.0.0.1", then "join 16016" once the head is up, and
closing the pipe means stop.

Exit status: the job's own; 75 when it was given back to Slurm's queue unfinished (SIGUSR1 before
the time limit, SIGTERM of a preemption, a node or Ray lost), or should have been but the cap is
reached; 143 cancelled; 1 Ray did not start; 2 bad input. Settings are environment variables that
slurm/site.sh exports (cluster/slurm/site.py). Standard library only: it also runs outside a
container.
"""

import os
import shlex
import signal
import sys
from queue import SimpleQueue

from c2srt.cluster.launch_node import adopt_orphans
from c2srt.cluster.slurm.check import look_at_nodes
from c2srt.cluster.slurm.job import run_job
from c2srt.cluster.slurm.keys import check_room, job_keys, worker_keys
from c2srt.cluster.slurm.nodes import Cluster, Node
from c2srt.cluster.slurm.requeue import describe_attempt, requeue
from c2srt.cluster.slurm.site import BAD_INPUT, Outcome, Refused, Site, say
from c2srt.console import show_log
from c2srt.surroundings import show_everything

CHECK, TRAIN = "check", "train"
"""A training costs all its nodes for days: they are looked at before, and it goes on with fewer."""
JOBS = {
    "shard": "c2srt.cluster.shard",
    "audit": "c2srt.cluster.audit",
    "teacher": "c2srt.cluster.teacher",
    TRAIN: "c2srt.cluster.train",
    "evaluate": "c2srt.cluster.evaluate",
    "text": "c2srt.cluster.cli text",
    "relations": "c2srt.cluster.cli relations",
    "tables": "c2srt.cluster.cli tables",
    CHECK: "c2srt.cluster.check",
}
WITHOUT_RAY = ("text", "relations")
WITHOUT_GPUS = ("shard", "audit", *WITHOUT_RAY)


def main(arguments: list[str]) -> int:
    """Runs one job; returns the exit status."""
    show_everything()
    show_log()
    events: SimpleQueue = SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: events.put(("Slurm", ["signal", str(number)])))
    adopt_orphans()
    try:
        if arguments[:1] == [] or arguments[0] not in JOBS or "SLURM_JOB_ID" not in os.environ:
            raise Refused(
                f"inside a Slurm job: python -m c2srt.cluster.launch {'|'.join(JOBS)} [key=value …]"
                " -- [key=value …]"
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
    if job == CHECK or job == TRAIN and site.check_seconds:
        looked = look_at_nodes(keys, site, events)
        if job == CHECK or looked.status:
            return looked
    if job in WITHOUT_GPUS and (gpus := int(os.environ.get("SLURM_GPUS_ON_NODE") or 0)):
        say(
            f"this job computes on CPUs alone, and holds {gpus} GPUs: slurm/submit.sh submits it"
            " without"
        )
    if job in WITHOUT_RAY:
        say(f"{job} {shlex.join(keys)}")
        return run_job(site.python("-m", *module, *keys), events, None, site)

    def all_keys() -> list[str]:
        return worker_keys(job, list(cluster.nodes.values()), site) + keys

    def check(left: list[Node]) -> None:
        check_room(job, all_keys(), left)

    with Cluster(site, events, check, shrinks=job == TRAIN) as cluster:
        if failed := cluster.start():
            return failed
        os.environ.update(RAY_ADDRESS=cluster.address, C2SRT_NODES=str(len(cluster.nodes)))
        keys_of_job = all_keys()
        say(f"{job} {shlex.join(keys_of_job)}")
        return run_job(site.python("-m", *module, *keys_of_job), events, cluster, site)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
