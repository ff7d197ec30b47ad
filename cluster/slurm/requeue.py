"""Slurm's queue: which attempt this is, and giving an unfinished job back."""

import os
import re
import subprocess

from c2srt.cluster.launch_node import job_state
from c2srt.cluster.slurm.site import Outcome, Site, command_output, say


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
