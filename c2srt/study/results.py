"""The results of a study, from its folder or from one file that holds them all."""

from pathlib import Path

from c2srt.errors import UserError
from c2srt.hints import Command
from c2srt.opened import read_json
from c2srt.study.rows import NO_GRAPH

MADE_BY = Command("study")
Results = dict[tuple[str, str], dict[int, dict[str, float]]]
"""(graph, row) → world → figures."""


def records_below(out: Path, worlds: list[int]) -> list[dict]:
    """The records of these worlds, in the order of worlds, graphs and files."""
    paths = [path for world in worlds for path in sorted((out / f"world-{world}").glob("*/*.json"))]
    return [read_json(path, MADE_BY) for path in paths]


def read_all(path: Path) -> list[dict]:
    """The records of a file. Raises UserError if it holds none."""
    found = read_json(path, MADE_BY).get("results")
    if not isinstance(found, list) or not found:
        raise UserError(f"{path} holds no results of a study: give a results.json that one wrote")
    return found


def results_of(records: list[dict]) -> Results:
    """Raises UserError where results that were made in different ways would stand in one table."""
    found: Results = {}
    made: dict[tuple[str, str], tuple[int, str]] = {}
    given: dict[str, int] = {}
    for record in records:
        world, place = record["world"], (record["graph"], record["row"])
        given.setdefault(record["given"], world)
        first, recipe = made.setdefault(place, (world, record["recipe"]))
        if recipe != record["recipe"]:
            raise UserError(
                f"{place[1]} ({place[0]}) has other settings in world {first} than in world"
                f" {world}: run the study of both again, or leave one out of worlds=…"
            )
        found.setdefault(place, {})[world] = record["figures"]
    if len(given) > 1:
        some = " and ".join(str(world) for world in sorted(given.values())[:2])
        raise UserError(
            f"the results of worlds {some} were made with other images=… or commands.…: give each"
            " study an out=… of its own"
        )
    return found


def of_row(results: Results, graph: str, row: str) -> dict[int, dict[str, float]]:
    """A row's figures by world on a graph; of a row that hears none, those that it has."""
    return results.get((graph, row)) or results.get((NO_GRAPH, row)) or {}
