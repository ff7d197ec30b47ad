"""The relations of Open Images and NUS-WIDE that ship with the project."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from c2srt.cluster.cli import main
from c2srt.evaluation.known import given_away, twins_heard
from c2srt.opened import read_json
from c2srt.relations.answers import Answers, llm_neighbours, shipped_answers
from c2srt.relations.prompt import TYPES
from c2srt.relations.table import load_relations
from c2srt.vocabulary import Vocabulary, open_images_v4

SHARED = Path(__file__).resolve().parents[2] / "shared/data"


def test_shipped_open_images_graph_reaches_every_category(tmp_path):
    vocabulary = open_images_v4()
    vocabulary.save(tmp_path / "shards")
    assert main(["relations", "data=openimages", f"work={tmp_path}"]) == 0
    table = load_relations(tmp_path / "relations/llm", vocabulary, 8)
    degree = (table >= 0).sum(1)
    assert table.shape == (7586, 8) and degree.min() >= 4 and table.max() < 7186
    assert not (table == torch.arange(7586)[:, None]).any()
    counts = read_json(tmp_path / "relations/llm/relations.json", "")["counts"]
    assert set(counts.values()) == {0}


def test_shipped_nus_wide_graph_is_keyed_by_name():
    answers = shipped_answers("relations_nuswide.jsonl.gz")
    names = tuple(answers.related)
    neighbours, counts = llm_neighbours(answers, Vocabulary(names, names, 925), 16)
    table = neighbours.table
    assert (
        table.shape == (1006, 16)
        and (table >= 0).all()
        and table.max() < 925
        and set(counts.values()) == {0}
    )


def test_every_plural_twin_of_nus_wide_hears_the_tag_that_it_equals():
    """All 30 of the 81 concepts: ZSL measures no transfer from other categories there."""
    answers = shipped_answers("relations_nuswide.jsonl.gz")
    names = tuple(answers.related)
    vocabulary = Vocabulary(names, names, 925)
    table = llm_neighbours(answers, vocabulary, 16)[0].table
    assert len({unseen for unseen, _ in given_away(vocabulary)}) == 30
    assert twins_heard(vocabulary, table) == 30
    unseen, seen = given_away(vocabulary)[0]
    table[unseen] = np.where(table[unseen] == seen, -1, table[unseen])
    assert twins_heard(vocabulary, table) == 29


def test_twenty_neighbours_are_absent_where_a_nus_wide_category_has_fewer():
    """Figure 4's last point: 483 of the 1,006 have all 20, the others 16 to 19."""
    answers = shipped_answers("relations_nuswide.jsonl.gz")
    names = tuple(answers.related)
    neighbours, _ = llm_neighbours(answers, Vocabulary(names, names, 925), 20)
    present = (neighbours.table >= 0).sum(1)
    assert present.min() == 16 and (present == 20).sum() == 483
    assert ((neighbours.table >= 0) == (np.arange(20) < present[:, None])).all()


@pytest.mark.parametrize("name", ["openimages_v4", "nuswide"])
def test_shipped_relations_are_the_mined_ones_in_a_reproducible_file(name):
    packed = (
        Path(__file__).parents[1] / f"c2srt/data_files/relations_{name}.jsonl.gz"
    ).read_bytes()
    assert packed[4:8] == bytes(4), "the gzip header must not hold a time"
    assert isinstance(shipped_answers(f"relations_{name}.jsonl.gz"), Answers)
    if not SHARED.is_dir():
        pytest.skip("needs shared/data to compare with the mined relations")
    assert gzip.decompress(packed) == (SHARED / f"relations/{name}.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("name", "seen", "least", "most"), [("openimages_v4", 7186, 5, 12), ("nuswide", 925, 16, 20)]
)
def test_shipped_relations_are_valid_and_say_where_they_come_from(name, seen, least, most):
    """Every category once; names of the vocabulary; seen, different, known relation types; as many
    as the provenance says.
    """
    packed = gzip.decompress(
        (Path(__file__).parents[1] / f"c2srt/data_files/relations_{name}.jsonl.gz").read_bytes()
    )
    rows = [json.loads(line) for line in packed.splitlines()]
    key = "mid" if name == "openimages_v4" else "name"
    names = {row[key]: row["name"] for row in rows}
    sources = {row[key] for row in rows if row["split"] == "seen"}
    assert (
        len(names) == len(rows)
        and len(sources) == seen
        and {row["split"] for row in rows} == {"seen", "unseen"}
    )
    if name == "openimages_v4":
        vocabulary = open_images_v4()
        assert names == dict(
            zip(vocabulary.mids, vocabulary.names, strict=True)
        ) and sources == set(vocabulary.mids[:seen])
    for row in rows:
        related = [one[key] for one in row["related"]]
        assert (
            least <= len(related) == len(set(related)) <= most
            and row[key] not in related
            and set(related) <= sources
        )
        assert all(
            one["name"] == names[one[key]]
            and one["type"] in TYPES
            and one["strength"] in ("high", "medium", "low")
            for one in row["related"]
        )
    provenance = shipped_answers(f"relations_{name}.jsonl.gz").provenance
    assert (
        provenance["queries"] == 1
        and f"{seen:,} seen and {len(rows) - seen}" in provenance["mined"]
    )
