"""What the command line says of a verb by itself: that it has begun, and what comes after it in
the workflow.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

from c2srt.hints import RUNNING, Command, key_of
from c2srt.model.kinds import KINDS
from c2srt.opened import read_json
from c2srt.scratch import origin

STARTING = {
    "predict": "loading the model of {checkpoint}",
    "train": "loading what trains into {out}",
    "evaluate": "loading what evaluates {evaluated}",
    "tune": "loading the model of {checkpoint}",
    "messages": "loading the model of {checkpoint}",
    "calibrate": "loading the model of {checkpoint}",
    "teacher": "loading the CLIP {clip[name]}",
    "figures": "loading what draws into {out}",
}
"""Verbs that import torch, Ray or DeepSpeed before they can say anything; the fields are keys of
the configuration; what is evaluated is a checkpoint or scores.
"""
AFTER = {
    "shard": ("text", "shards"),
    "audit": ("text", None),
    "text": ("relations", "text"),
    "relations": ("teacher", "relations"),
    "teacher": ("train", "teacher"),
    "relations-report": ("tables", None),
    "tables": ("figures", "tables_folder"),
}
"""The verb that comes next, and the key by which it finds what this one wrote into an out=… of its
own.
"""


def starting(verb: str, composed: Any) -> str | None:
    """The line to say at once, for verbs whose first own line comes late."""
    if verb not in STARTING:
        return None
    values = dict(composed)
    if verb == "evaluate":
        values["evaluated"] = composed["scores"] or composed["checkpoint"]
    return f"c2srt {verb}: {STARTING[verb].format_map(values)} …"


def after(verb: str, config: Any) -> Command | None:
    """The command that goes on from what `verb` has made with its Config; None where the workflow
    ends or forks.
    """
    if getattr(config, "json", False) or getattr(config, "part", None):
        return None
    if verb in AFTER:
        following, key = AFTER[verb]
        chosen = ["tables=[graphs]"] if verb == "relations-report" else []
        return Command(
            following, *chosen, values={key: config.out} if key and is_typed("out") else None
        )
    if verb in ("train", "tune", "messages", "export"):
        own = verb != "train" or is_typed("out")
        return Command(
            "evaluate",
            values={
                "checkpoint": f"{config.out}/model" if verb == "train" else config.out,
                "out": f"{config.out}/evaluation",
            }
            if own
            else None,
        )
    if (
        verb == "evaluate"
        and config.scores is None
        and origin(config.checkpoint) is None  # figures are drawn on a machine
        and (kind := KINDS.get(kind_of(config.checkpoint) or ""))
        and kind.figures
    ):
        return Command("figures", values={kind.figures: config.checkpoint})
    if verb == "plan" and not config.calibrate and not config.check:
        return Command("train", *trained_with(config))
    return None


def is_typed(key: str) -> bool:
    return any(key_of(override) == key for override in RUNNING[-1][1])


def trained_with(config: Any) -> list[str]:
    """What was typed for `plan`, without its own keys."""
    own = {field.name for field in fields(config)} - {
        field.name for field in fields(type(config).__mro__[1])
    }
    return [
        override for override in RUNNING[-1][1] if key_of(override).partition(".")[0] not in own
    ]


def kind_of(checkpoint: str) -> str | None:
    """The kind of network in an export; None for clip, prior and arrays."""
    for folder in (Path(checkpoint), Path(checkpoint) / "model"):
        if (folder / "config.json").is_file():
            model = read_json(folder / "config.json", Command("export")).get("model")
            return model.get("kind") if isinstance(model, dict) else None
    return None
