"""One command on the allocation, to its end."""

import os
import signal
import subprocess
import threading
import time
from queue import SimpleQueue

from c2srt.cluster.launch_node import BEAT_SECONDS, job_state
from c2srt.cluster.slurm.nodes import Cluster, next_event
from c2srt.cluster.slurm.site import CANCELLED, REQUEUE, Outcome, Site, say, signal_name

SILENT_SECONDS = 60


def run_job(
    command: list[str], events: SimpleQueue, cluster: Cluster | None, site: Site
) -> Outcome:
    """Runs the command to its end, or to the end that a signal or a failure gives it."""
    process = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)
    threading.Thread(
        target=lambda: events.put(("job", ["ended", str(process.wait())])), daemon=True
    ).start()
    stopped_by: int | None = None
    deadline, told = float("inf"), set[str]()
    try:
        while True:
            source, words = next_event(events, 1)
            if source == "job":
                return judge(int(words[1]), stopped_by, cluster)
            if cluster and (lost := lose(cluster, source, words)):
                return lost
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
            if stopped_by is not None and time.monotonic() > deadline:
                last = signal_name(stopped_by)
                late = f"the job had not left {site.save_seconds:.0f} s after {last}"
                return Outcome(REQUEUE, late, again=True)
            tell_silent(cluster, told)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def lose(cluster: Cluster, source: str, words: list[str]) -> Outcome | None:
    """Looks for nodes that are gone: an Outcome where the job cannot go on without."""
    gone = {name: f"Slurm has taken {name} from the job: it is down" for name in cluster.taken()}
    if words[:1] == ["ended"] and source not in cluster.lost:
        last = " ".join(words[1:])
        gone[source] = f"Ray on {source} ended with {last} (more in {cluster.logs}/)"
    for name, what in gone.items():
        if name not in cluster.nodes or not cluster.enough_without(name):
            return Outcome(REQUEUE, what, again=True)
        say(f"{what}; the job goes on with the nodes that are left")
    return None


def tell_silent(cluster: Cluster | None, told: set[str]) -> None:
    """Says which nodes have been silent for long, each once: `told` are those that were named."""
    for name in set(cluster.silent(SILENT_SECONDS) if cluster else ()) - told:
        told.add(name)
        say(
            f"{name} has been silent for {SILENT_SECONDS} s; if the node is lost the job goes on"
            " without it, or Slurm starts it again"
        )


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
    while lost := [
        name
        for name, node in cluster.nodes.items()
        if name in cluster.lost or node.last_seen < asked
    ]:
        if time.monotonic() > asked + 3 * BEAT_SECONDS:
            break
        time.sleep(0.2)
    return lost
