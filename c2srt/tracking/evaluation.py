"""What an evaluation adds to the tracker's run of the training whose model it scored."""

import re
from pathlib import Path

from c2srt.evaluation.config import UNTRAINED, Config
from c2srt.evaluation.results import PER_CATEGORY, RESULTS, flat
from c2srt.export.files import CONFIG_FILE, find_export
from c2srt.hints import Command
from c2srt.opened import read_json
from c2srt.tracking import RUN, Journal, Tracker, send_rest

HEADLINE = "headline"
"""MLflow's section of what leads; a name that comes before those of the other sections."""


def leads(name: str) -> bool:
    """Whether a number of `flat` is one of the few that the field compares."""
    return bool(re.fullmatch(r"g?zsl/(mAP/per_class|F1@\d+/F1)", name))


def track_results(config: Config, results: dict, new: bool) -> None:
    """Adds the results to the MLflow run of the training that made the checkpoint, if it left one
    beside it; of results that are not `new`, what an earlier call did not come to. Scores of
    neighbours are not the model's own, and stay out.
    """
    if config.checkpoint in UNTRAINED or config.neighbours:
        return
    path, key = find_export(config.checkpoint).absolute(), results["made_from"]["key"]
    folder = next((folder for folder in (path, path.parent) if (folder / RUN).is_file()), None)
    if folder is None:
        return
    marks = {part: f"{key}/{part}" for part in ("metrics", RESULTS, PER_CATEGORY)}
    done = set() if new else set(Journal(folder).seen().marks)
    if done.issuperset(marks.values()):
        return send_rest(folder)
    tracker, step = (
        Tracker(folder),
        read_json(path / CONFIG_FILE, Command("export")).get("made_from", {}).get("step", 0),
    )
    if marks["metrics"] not in done:
        values: dict[str, float] = {}
        for name, value in flat(results).items():
            own = name.replace("/", "_").replace("@", "_at_")  # MLflow makes a section of each "/"
            values[f"{config.split}/{own}"] = value
            if leads(name):
                values[f"{HEADLINE}/{config.split}_{own}"] = value
        tracker.metrics(values, step, mark=marks["metrics"])
    for name in (RESULTS, PER_CATEGORY):
        if marks[name] not in done:
            tracker.artifact(
                Path(config.out) / name, f"evaluation-{config.split}", mark=marks[name]
            )
    tracker.close(None)
