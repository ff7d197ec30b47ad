"""A mining run on NUS-WIDE's vocabulary against a server on loopback: what its tests share."""

import json
from collections import Counter
from pathlib import Path

import pytest

from c2srt.cluster.cli import main
from c2srt.relations.answers import read_answers, shipped_answers
from c2srt.relations.prompt import make_labels
from c2srt.vocabulary import Vocabulary
from tests.llm_server import KEY, MODEL, LlmServer, relations_by_label

NUS = shipped_answers("relations_nuswide.jsonl.gz")
WORDS = Vocabulary(tuple(NUS.related), tuple(NUS.related), 925)
RELATED = relations_by_label(NUS, WORDS, make_labels(WORDS))
TARGETS = [*WORDS.mids[:24], *WORDS.mids[-8:]]
FREE = ("price_input=0", "price_output=0", "backoff_s=0.01")


def make_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the vocabulary, and an environment with nothing but the server's key."""
    WORDS.save(tmp_path / "shards")
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return tmp_path


def mine(
    folder: Path, server: LlmServer | None, *arguments: str, targets: list[str] | None = TARGETS
) -> int:
    where = [f"url={server.url}", f"model={MODEL}"] if server else []
    chosen = [f"targets={json.dumps(targets)}"] if targets else []
    return main(["relations", "mine", f"work={folder}", *where, *chosen, *FREE, *arguments])


def ledger(folder: Path) -> list[dict]:
    return [
        json.loads(line)
        for line in (folder / "relations/mined/ledger.jsonl").read_text().splitlines()
    ][1:]


def finals(folder: Path) -> Counter:
    """Question id → how many answers the ledger holds."""
    return Counter(event["id"] for event in ledger(folder) if event.get("final"))


def mined(folder: Path):
    return read_answers(folder / "relations/mined/relations.jsonl")


def assert_same_relations(found, targets: list[str], true=NUS) -> None:
    assert list(found.related) == targets
    for target in targets:
        ranked = sorted(true.related[target], key=lambda one: -one.strength)
        assert found.related[target] == ranked, target
