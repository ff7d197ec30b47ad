"""`c2srt study tune=[…]`: the settings of c2srt/study/tuned.py, each tried in a world's fold.

<out>/tuning-<n>/<model>-<trial>.json   {"world", "graph", "model", "overrides", "figures" of
                                        the fold's validation images, "key", "versions"}
<out>/tuning.md                         all of them
"""

import logging
from dataclasses import asdict
from pathlib import Path

from c2srt.artefact import is_marked
from c2srt.demo import measure
from c2srt.demo.noise import NOISES
from c2srt.demo.raw import raw_key
from c2srt.files import hash_of, write_json, write_text
from c2srt.opened import read_json
from c2srt.study.config import Config
from c2srt.study.plan import PRIMARY, SHOWN, TOPK
from c2srt.study.results import MADE_BY
from c2srt.study.rows import MESSAGES, NO_GRAPH, TRAININGS, Row, Training
from c2srt.study.tuned import TUNED
from c2srt.study.world import Place, prepare, relate, slug, train
from c2srt.versions import VERSIONS, versions

log = logging.getLogger(__name__)


def tune(place: Place, out: Path) -> None:
    """Tries what has no result yet in the fold of a world."""
    graph = place.config.graphs[0]
    todo = [(name, trial) for name in place.config.tuned for trial in TUNED[name].trials]
    missing = [each for each in todo if not is_there(place, out, graph, *each)]
    log.info(f"\n══ fold of world {place.number}: {len(missing)} of {len(todo)} to be tried")
    if not missing:
        return
    prepare(place)
    validation = measure.load_split(
        place.world, place.workspace.shards(), place.folder / "raw", "validation"
    )
    for name, trial in missing:
        scores = measure.model_scores(model_of(place, graph, name, trial), validation.images)
        figures = measure.figures(scores, validation, TOPK)
        record = {
            "world": place.number,
            "graph": graph,
            "model": name,
            "overrides": trial,
            "figures": figures,
            "key": key_of(place, graph, name, trial),
            VERSIONS: versions(),
        }
        write_json(path_of(out, place.number, name, trial), record)
        log.info(f"   {name} {' '.join(trial)}: {PRIMARY} {100 * figures[PRIMARY]:.1f}")


def model_of(place: Place, graph: str, name: str, trial: tuple[str, ...]) -> Path:
    """The export of a trial; made if it is missing."""
    tuned, number = TUNED[name], TUNED[name].trials.index(trial)
    if tuned.base:
        checkpoint = train(place, tuned.base, TRAININGS[tuned.base], NO_GRAPH)
        row = Row(f"{name} {number}", tuned.base, MESSAGES, overrides=trial)
        return relate(place, row, graph, checkpoint)
    training = Training((*tuned.given, *trial), tuned.hears)
    return train(place, f"{name}-{number}", training, graph if tuned.hears else NO_GRAPH) / "model"


def path_of(out: Path, world: int, name: str, trial: tuple[str, ...]) -> Path:
    return out / f"tuning-{world}" / f"{slug(name)}-{TUNED[name].trials.index(trial)}.json"


def is_there(place: Place, out: Path, graph: str, name: str, trial: tuple[str, ...]) -> bool:
    path = path_of(out, place.number, name, trial)
    return is_marked(path, key_of(place, graph, name, trial), MADE_BY)


def key_of(place: Place, graph: str, name: str, trial: tuple[str, ...]) -> str:
    """As of a row (c2srt/study/run.py)."""
    tuned, given = TUNED[name], place.config.given
    world = raw_key(place.number, place.demo.pictures, place.world)
    base = tuned.base and asdict(TRAININGS[tuned.base])
    noise = asdict(NOISES[graph])
    return hash_of([tuned.given, tuned.hears, base, trial, graph, noise, world, given])


def tuning_report(config: Config) -> str:
    """Writes tuning.md and tuning.json: every trial that is there, the best of each model
    marked.
    """
    parts, every = [], []
    for world in config.share:
        for name in config.tuned:
            paths = [path_of(Path(config.out), world, name, each) for each in TUNED[name].trials]
            records = [read_json(path, MADE_BY) for path in paths if path.is_file()]
            parts.append(tuning_table(name, records))
            every += records
    text = "\n\n".join(parts)
    write_text(Path(config.out) / "tuning.md", text + "\n")
    write_json(Path(config.out) / "tuning.json", {"results": every})
    return text


def best_of(records: list[dict]) -> dict:
    """The trial that is frozen: the first of those with the highest PRIMARY."""
    return max(records, key=lambda record: record["figures"][PRIMARY])


def tuning_table(name: str, records: list[dict]) -> str:
    """In percent."""
    heading = "| settings | " + " | ".join(SHOWN) + " |"
    lines = [f"**{name}**", "", heading, "|---" * (len(SHOWN) + 1) + "|"]
    for record in records:
        settings = " ".join(record["overrides"]) or "as they were"
        mark = "**" if record is best_of(records) else ""
        cells = " | ".join(f"{100 * record['figures'][figure]:.1f}" for figure in SHOWN)
        lines.append(f"| {mark}{settings}{mark} | {cells} |")
    return "\n".join(lines)
