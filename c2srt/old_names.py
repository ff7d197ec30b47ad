"""The keys of `c2srt train` and `c2srt plan` that had another name, and where each stands today.

An old name means the same on the command line and in the `schedule` of a data set's file. What is
written down keeps it: the settings and the identity of a checkpoint, an export's origin, MLflow's
parameters, what a table's trial was made with. So their hashes stay, older runs go on, and runs of
all ages stand in one column of MLflow; a key that is new has only one name, and is not written down
where all is as it was before it came.
"""

import re
from collections.abc import Iterable
from typing import Any

TODAY = {
    "epochs": "schedule.epochs",
    "steps": "schedule.steps",
    "batch": "schedule.batch",
    "micro_batch": "schedule.micro_batch",
    "warmup": "schedule.warmup",
    "lr": "optimizer.lr",
    "head_lr": "optimizer.head_lr",
    "weight_decay": "optimizer.weight_decay",
    "layer_decay": "optimizer.layer_decay",
    "clip_grad_norm": "optimizer.clip_grad_norm",
    "precision": "engine.precision",
    "zero": "engine.zero",
    "offload": "engine.offload",
    "deterministic": "engine.deterministic",
    "checkpoint_every": "checkpoints.every",
    "keep_last": "checkpoints.keep",
    "validate_every": "validation.every",
    "validation_images": "validation.images",
    "loader_workers": "loader.workers",
    "gpus_per_worker": "resources.gpus_per_worker",
    "cpus_per_worker": "resources.cpus_per_worker",
    "min_workers": "faults.min_workers",
    "start_timeout": "faults.start_timeout",
    "collective_timeout": "faults.collective_timeout",
    "max_failures": "faults.max_failures",
    "max_nonfinite": "faults.max_nonfinite",
    "log_every": "tracking.every",
    "record_samples": "tracking.samples",
}
OLD = {today: old for old, today in TODAY.items()}
LATER = {
    **{"schedule.streams": 0, "loader.cache": None, "loader.cache_gb": 200},
    **{"checkpoints.seconds": 0, "tracking.seconds": 0, "tracking.node_seconds": 0},
    **{"warm_start": None, "engine.tf32": False},
}
"""Keys that came later, and the value that means what was before."""
GROUPS = {today.partition(".")[0] for today in OLD}
VERBS = ("train", "plan")
OVERRIDE = re.compile(r"([+~]*)([^=]*)(.*)", re.DOTALL)
REFERENCE = re.compile(r"(?<!\\)\$\{(\w+)\}")


def today(override: str) -> str:
    """`lr=…`, `+lr=…` and `~lr` as `optimizer.lr=…`, and so a `${lr}` in the value; what has no
    old name, as it is.
    """
    sign, key, value = override_parts(override)
    value = REFERENCE.sub(lambda found: f"${{{TODAY.get(found[1], found[1])}}}", value)
    return sign + TODAY.get(key, key) + value


def as_today(verb: str, overrides: Iterable[str]) -> list[str]:
    """What was typed for a verb, by today's names. Every data set has each key of `data` by now:
    one that is added (`+data.resize=…`) takes the place of what is there.
    """
    typed = [f"+{one}" if one.startswith("+data.") else one for one in overrides]
    return [today(one) if verb in VERBS else one for one in typed]


def old(override: str) -> str:
    """The override by the name that is written down."""
    sign, key, value = override_parts(override)
    return sign + OLD.get(key, key) + value


def override_parts(override: str) -> tuple[str, ...]:
    """(`+` and `~`, key, `=` and value)."""
    found = OVERRIDE.fullmatch(override)
    assert found  # it takes any text
    return found.groups()


def grouped(values: dict[str, Any]) -> dict[str, Any]:
    """Values by old or today's names, in today's groups."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        group, _, key = TODAY.get(name, name).partition(".")
        if key or group in GROUPS and isinstance(value, dict):
            found[group] = {**found.get(group, {}), **({key: value} if key else value)}
        else:
            found[group] = value
    return found


def completed(values: dict[str, Any]) -> dict[str, Any]:
    """Grouped values with those of later keys that were not written down."""
    found = dict(values)
    for later, before in LATER.items():
        group, _, key = later.partition(".")
        found[group] = {key: before} | found.get(group, {}) if key else found.get(group, before)
    return found


def written(values: dict[str, Any]) -> dict[str, Any]:
    """The whole of a config's values, in today's groups, by the names that are written down."""
    found = {name: dict(value) if name in GROUPS else value for name, value in values.items()}
    for today, old in OLD.items():
        group, _, key = today.partition(".")
        found[old] = found[group].pop(key)
    for later, before in LATER.items():
        group, _, key = later.partition(".")
        holder = found.get(group, {}) if key else found
        if holder.get(key or group, ...) == before:
            del holder[key or group]
    return {name: value for name, value in found.items() if name not in GROUPS or value}
