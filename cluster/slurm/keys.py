"""What a job of the allocation runs: the script's keys, the command line's, and its width."""

import os
import shlex
from pathlib import Path

from c2srt.cluster.slurm.nodes import Node
from c2srt.cluster.slurm.site import Refused, Site
from c2srt.old_names import today

A_WORKER_A_CPU = ("shard", "audit", "teacher")


def job_keys(job: str, defaults: list[str], own: list[str]) -> list[str]:
    """The script's keys without those that the command line gives too, the array's, the command
    line's.

    Another data set than the script's (data=…) drops the script's folders (data.*, work), which are
    not for it.
    """
    rows, own = split_rows(own)
    given = {today(key).partition("=")[0] for key in own}
    kept = [
        key
        for key in defaults
        if (name := today(key).partition("=")[0]) not in given
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


def worker_keys(job: str, nodes: list[Node], site: Site) -> list[str]:
    """How wide the job is, from the allocation: a worker a GPU (or `cpu_workers` a node) for
    models, a worker a CPU for data.
    """
    gpus = sum(node.gpus for node in nodes)
    if job in A_WORKER_A_CPU:
        return [f"workers={sum(node.cpus for node in nodes)}"]
    workers = [f"workers={gpus or site.cpu_workers * len(nodes)}"]
    share = {"train": "resources.gpus_per_worker=1", "tables": "gpus_per_worker=1"}
    return [*workers, share[job]] if gpus and job in share else workers


def check_room(job: str, keys: list[str], nodes: list[Node]) -> None:
    """Raises Refused if the nodes have too few CPUs or GPUs for the job's workers: more nodes will
    not come.
    """
    given = dict(today(key).split("=", 1) for key in keys if "=" in key)
    if job in A_WORKER_A_CPU:
        return
    try:
        cpus = float(given.get("resources.cpus_per_worker", 1))
        gpus = float(given.get("resources.gpus_per_worker", 0))
        least = int(given.get("faults.min_workers", given["workers"]))
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
