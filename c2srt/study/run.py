"""`c2srt study`: the same rows in several worlds, each result written as it ends.

    <out>/world-<n>/<graph or none>/<row>.json   {"world", "graph", "row", "figures", "training",
                                                  "categories", "least_positives", "recipe",
                                                  "given", "key", "versions"}: one result
    <out>/results.json                           all of them
    <out>/study.md, study.json                   means over worlds, differences with their intervals

A run killed at any moment is repeated with the same command; results that are there stay.
"""

import logging
from dataclasses import asdict
from pathlib import Path

import torch

from c2srt.artefact import is_marked
from c2srt.demo import measure
from c2srt.demo.noise import NOISES
from c2srt.demo.raw import raw_key
from c2srt.files import hash_of, write_json
from c2srt.jobs import Jobs
from c2srt.processes import kept
from c2srt.study.bases import Bases
from c2srt.study.config import Config
from c2srt.study.plan import TOPK
from c2srt.study.report import report, text_of
from c2srt.study.results import MADE_BY, read_all
from c2srt.study.rows import NO_GRAPH, TRAININGS, Row
from c2srt.study.tuning import tune, tuning_report
from c2srt.study.world import Place, prepare, slug
from c2srt.tables.runner import Runner
from c2srt.versions import VERSIONS, versions

log = logging.getLogger(__name__)


@kept()
def run(config: Config, jobs: Jobs) -> None:
    """Makes what is missing in each world of this part, then the report over all that is there."""
    if config.results:
        print(text_of(read_all(Path(config.results)), config))
        return
    torch.set_num_threads(config.workers)
    runner = Runner(MADE_BY, jobs)
    if config.tune:
        for number in config.share:
            tune(Place(number, config, runner, fold=True), Path(config.out))
        print(tuning_report(config))
        return
    for number in config.share:
        run_world(Place(number, config, runner), Path(config.out))
    print(report(config))


def run_world(place: Place, out: Path) -> None:
    """All rows of a world that have no result yet."""
    missing = [each for each in wanted(place.config) if not is_there(place, out, *each)]
    log.info(f"\n══ world {place.number}: {len(missing)} of {len(wanted(place.config))} to be made")
    if not missing:
        return
    prepare(place)
    bases = Bases(place)
    least = least_positives(bases.split("test"))
    for graph, row in missing:
        scores, training = bases.of_row(row, graph)
        result = measure.figures(scores, bases.split("test"), TOPK)
        record = {
            "world": place.number,
            "graph": graph,
            "row": row.name,
            "figures": result,
            "training": training,
            "categories": place.config.categories,
            "least_positives": least,
            "recipe": recipe_of(row, graph),
            "given": place.config.given,
            "key": key_of(place, row, graph),
            VERSIONS: versions(),
        }
        write_json(path_of(out, place.number, graph, row), record)
        log.info(f"   {row.name}, {graph}: GZSL mAP {100 * result['GZSL mAP']:.1f}")


def least_positives(test: measure.Split) -> int:
    """Of any unseen category, in the verified labels."""
    unseen = ~measure.seen(test.world)
    return int((test.labels[:, unseen] > 0).sum(0).min())


def wanted(config: Config) -> list[tuple[str, Row]]:
    """(graph, row) of a world: rows that hear no graph once, the others for each."""
    rows = config.chosen
    alone = [(NO_GRAPH, row) for row in rows if not row.needs_graph]
    return alone + [(graph, row) for graph in config.graphs for row in rows if row.needs_graph]


def path_of(out: Path, world: int, graph: str, row: Row) -> Path:
    return out / f"world-{world}" / graph / f"{slug(row.name)}.json"


def is_there(place: Place, out: Path, graph: str, row: Row) -> bool:
    path = path_of(out, place.number, graph, row)
    return is_marked(path, key_of(place, row, graph), MADE_BY)


def key_of(place: Place, row: Row, graph: str) -> str:
    """Changes when a result would come out otherwise, as far as the row, the world and the
    commands decide it.
    """
    world = raw_key(place.number, place.demo.pictures, place.world)
    return hash_of([recipe_of(row, graph), place.config.given, world])


def recipe_of(row: Row, graph: str) -> str:
    """What a row is in every world."""
    decides = {name: value for name, value in asdict(row).items() if name != "compared"}
    training, noise = TRAININGS.get(row.base), NOISES.get(graph)
    return hash_of([decides, *(each and asdict(each) for each in (training, noise)), graph])
