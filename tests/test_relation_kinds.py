"""The seam for a new relation kind: one object, registered from outside, and what decides it."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from c2srt.artefact import Input, setting
from c2srt.errors import UserError
from c2srt.relations import build
from c2srt.relations.config import ReportConfig
from c2srt.relations.kinds import KINDS, Built, GraphConfig, Kind
from c2srt.relations.neighbours import Neighbours
from c2srt.relations.report import load_graphs
from c2srt.relations.table import PROVENANCE, TABLE, load_relations
from c2srt.vocabulary import Vocabulary
from tests.shard_folder import make_vocabulary


@dataclass
class LadderConfig(GraphConfig):
    """The key that only this kind has: how far apart the rungs are."""

    step: int = 1


def rungs(config: LadderConfig, vocabulary: Vocabulary) -> dict[str, Input]:
    return {"step": setting(config.step)}


def build_ladder(vocabulary: Vocabulary, k: int, step: int) -> Built:
    """Every category hears the seen ones at 1, 2, … K steps from it, round and round."""
    places = np.arange(1, k + 1) * step
    table = (np.arange(len(vocabulary))[:, None] + places) % vocabulary.seen_count
    return Built(Neighbours(table.astype(np.int32), np.full(table.shape, 1.0, np.float32)))


@pytest.fixture
def ladder(tmp_path, monkeypatch) -> LadderConfig:
    """The kind registered, and a config that asks for it."""
    make_vocabulary(seen=7, unseen=2).save(tmp_path)
    monkeypatch.setitem(KINDS, "ladder", Kind("ladder", rungs, build_ladder))
    return LadderConfig(
        graph="ladder", neighbours=2, shards=str(tmp_path), out=str(tmp_path / "graphs/ladder")
    )


def test_a_new_kind_is_built_then_current_then_rebuilt_when_its_own_setting_changes(ladder, capsys):
    out = Path(ladder.out)
    build.run(ladder)
    assert np.load(out / TABLE)[8].tolist() == [2, 3]
    assert json.loads((out / PROVENANCE).read_text())["made_from"] == {
        "kind": "ladder",
        "vocabulary": make_vocabulary(seen=7, unseen=2).hash,
        "neighbours": 2,
        "step": 1,
    }
    assert "ladder, 9 categories, 2.0 neighbours each" in capsys.readouterr().out
    written = (out / TABLE).stat().st_mtime_ns

    build.run(ladder)
    assert capsys.readouterr().out == f"{out / TABLE} is up to date (ladder)\n"
    assert (out / TABLE).stat().st_mtime_ns == written

    ladder.step = 2
    build.run(ladder)
    assert np.load(out / TABLE)[8].tolist() == [3, 5]
    assert "up to date" not in capsys.readouterr().out


def test_a_new_kind_is_trained_with_and_reported(ladder):
    build.run(ladder)
    vocabulary = make_vocabulary(seen=7, unseen=2)
    assert load_relations(Path(ladder.out), vocabulary, 1)[:3, 0].tolist() == [1, 2, 3]
    config = ReportConfig(folder=str(Path(ladder.out).parent))
    assert [graph.kind for graph in load_graphs(config, vocabulary)] == ["ladder"]


def test_what_a_kind_does_not_declare_cannot_decide_it(ladder, monkeypatch):
    """Were the setting left out of the record, the graph would pass for current when it changes."""
    forgetful = Kind("ladder", lambda config, vocabulary: {}, build_ladder)
    monkeypatch.setitem(KINDS, "ladder", forgetful)
    with pytest.raises(TypeError, match="step"):
        build.run(ladder)
    assert not (Path(ladder.out) / TABLE).exists()


def test_a_kind_that_nobody_knows_is_refused_by_name(ladder, monkeypatch):
    build.run(ladder)
    monkeypatch.delitem(KINDS, "ladder")
    with pytest.raises(UserError, match=r"made_from\.kind: ladder is not one of llm, mined, simil"):
        load_relations(Path(ladder.out), make_vocabulary(seen=7, unseen=2), 1)
    with pytest.raises(UserError, match="graph=ladder is not a kind of relation graph"):
        GraphConfig(graph="ladder")
