"""The data sets that have a file in configs/datasets, and what is known of each besides its keys.

A file holds all that is told of one data set: the keys that every verb takes (data, clip, topk);
`prompts` (`c2srt text`; else those of Open Images), `schedule` (`c2srt train`; else its defaults)
and `sizes` (`c2srt plan`, before shards are there), of which c2srt/compose.py makes the choices of
those verbs; under `schedules` further schedules by their names, `paper` being that of the data set
in use; and, under `known`, what belongs to the data set and is no key:

    published      positives per image of the test split: a constant of the labels that published
                   P@K and R@K reveal (K · P@K / R@K; c2srt/tables/published.py finds the rows that
                   contradict it); `vocabulary` is the hash of the categories that they belong to
    compared_with  whose published rows stand beside ours, where no paper knows the data set: their
                   order can be compared, their values cannot
    oracle         what the `llm` graph is called in every table where no language model made it
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

FOLDER = files("c2srt.configs").joinpath("datasets")
KNOWN = "known"


@dataclass(frozen=True)
class Published:
    """Positives per image of the test split by label set, and the decimals they are known to."""

    vocabulary: str
    zsl: float
    gzsl: float
    digits: tuple[int, int]
    every_image: bool
    """Over all test images, else over those with a positive in the label set."""

    def agrees(self, label_set: str, value: float) -> bool:
        return round(value, self.digits[label_set == "gzsl"]) == getattr(self, label_set)


@dataclass(frozen=True)
class DataSet:
    """What is known of one; nothing of a data set without a file. `topk`: the K of the F1 that is
    published.
    """

    topk: tuple[int, ...] = ()
    published: Published | None = None
    compared_with: str | None = None
    oracle: str | None = None


def texts() -> dict[str, str]:
    """The files, by name of the data set."""
    found = sorted((path.name, path) for path in FOLDER.iterdir() if path.name.endswith(".yaml"))
    return {name.removesuffix(".yaml"): path.read_text(encoding="utf-8") for name, path in found}


@cache
def data_sets() -> dict[str, DataSet]:
    return {name: data_set_of(yaml.safe_load(text)) for name, text in texts().items()}


def data_set_of(content: dict[str, Any]) -> DataSet:
    known = dict(content.get(KNOWN, {}))
    if published := known.pop("published", None):
        published = Published(**published | {"digits": tuple(published["digits"])})
    return DataSet(tuple(content.get("topk", ())), published, **known)


def data_set(name: str) -> DataSet:
    return data_sets().get(name, DataSet())


def published_of(name: str) -> Published:
    """What papers publish of a data set. Raises LookupError if they publish nothing."""
    if not (found := data_set(name).published):
        raise LookupError(f"configs/datasets/{name}.yaml has no {KNOWN}.published")
    return found


def published_names() -> list[str]:
    """The data sets whose results papers publish."""
    return [name for name, known in data_sets().items() if known.published]
