"""`c2srt relations mine`, killed and asked again, and the whole of NUS-WIDE."""

import math
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from c2srt.cluster.cli import main
from c2srt.relations.answers import shipped_answers
from c2srt.relations.ledger import State
from c2srt.relations.mine import Config
from c2srt.relations.prompt import make_labels
from c2srt.relations.questions import make_questions
from c2srt.relations.table import load_relations
from c2srt.vocabulary import open_images_v4
from tests.llm_server import MODEL, LlmServer, relations_by_label
from tests.mining_case import (
    NUS,
    RELATED,
    WORDS,
    finals,
    ledger,
    make_words,
    mine,
    mined,
)
from tests.mining_process import CONTENT, TRANSPORT, start


@pytest.fixture
def words(tmp_path, monkeypatch):
    return make_words(tmp_path, monkeypatch)


def kill_after(folder: Path, server: LlmServer, count: int, *arguments: str) -> None:
    """SIGKILL once the server has answered `count` requests in all."""
    server.most = count
    process = start(folder, server, *arguments)
    while len(server.served) < count:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    server.most = math.inf


def test_a_killed_run_goes_on_without_asking_twice_what_was_answered(words):
    with LlmServer(RELATED, delay_s=0.05) as server:
        kill_after(words, server, 100, "concurrency=8")
        answered = sum(finals(words).values())
        assert 80 < answered <= 100
        targets = list(WORDS.mids[:160])
        assert mine(words, server, "concurrency=8", targets=targets) == 0
        assert len(server.served) <= 100 + 8 + 160 - answered
    assert set(finals(words).values()) == {1}


def test_a_request_that_never_came_back_counts_with_its_bound():
    """A killed run leaves it open: whoever answered may bill it, beside the one that follows."""
    state = State()
    state.take({"event": "ask", "id": "a", "bound": 0.5})
    state.take({"event": "ask", "id": "a", "bound": 0.25})
    assert (state.spent, state.open) == (0.5, {"a": 0.25})
    state.take({"event": "reply", "id": "a", "cost": 0.125, "final": True, "related": []})
    assert (state.spent, state.open) == (0.625, {})


@pytest.mark.long  # in every run: one kill, above
def test_three_kills_leave_every_answer_of_open_images_exactly_once(tmp_path):
    """7,586 targets, 50 ms a reply, 32 at once, faults now and then; SIGKILL at a quarter, a half,
    three quarters.
    """
    vocabulary = open_images_v4()
    vocabulary.save(tmp_path / "shards")
    labels, shipped = make_labels(vocabulary), shipped_answers("relations_openimages_v4.jsonl.gz")
    kinds = [None, *TRANSPORT, *CONTENT]

    def fault(target: str, nth: int) -> str | None:
        return (
            kinds[sum(target.encode()) % len(kinds)] if nth == 0 and len(target) % 7 == 0 else None
        )

    arguments = ("concurrency=32", "sources=[words]", "size=100")
    with LlmServer(
        relations_by_label(shipped, vocabulary, labels),
        fault=fault,
        delay_s=0.05,
        keep_prompts=False,
    ) as server:
        for share in (0.25, 0.5, 0.75):
            kill_after(tmp_path, server, int(share * 7586), *arguments)
        last = start(tmp_path, server, *arguments)
        _, errors = last.communicate()
        assert last.returncode == 0, errors
        faults = sum(fault is not None and fault != "prose" for _, fault in server.served)
        assert 7586 + faults <= len(server.served) <= 7586 + faults + 3 * 32
    assert len(finals(tmp_path)) == 7586 and set(finals(tmp_path).values()) == {1}
    targets = {
        event["id"]: event["target"] for event in ledger(tmp_path) if event["event"] == "ask"
    }
    assert Counter(targets[key] for key in finals(tmp_path)) == dict.fromkeys(vocabulary.mids, 1)
    config = Config(shards=str(tmp_path / "shards"), sources=["words"], size=100)
    found, pools = mined(tmp_path).related, make_questions(config, MODEL).pools
    for row, mid in enumerate(vocabulary.mids):
        shown = {vocabulary.mids[column] for column in pools[row]}
        listed = [one for one in shipped.related[mid] if one.key in shown]
        assert found[mid] == sorted(listed, key=lambda one: -one.strength), mid


@pytest.mark.slow
def test_the_whole_graph_of_nus_wide_mined_is_the_graph_of_the_shipped_answers(words):
    from c2srt.relations.answers import llm_neighbours

    with LlmServer(
        RELATED, fault=lambda target, nth: "500" if nth == 0 and len(target) == 4 else None
    ) as server:
        assert mine(words, server, "concurrency=32", targets=None) == 0
    assert (
        main(
            [
                "relations",
                f"work={words}",
                f"relations_file={words}/relations/mined/relations.jsonl",
                "neighbours=16",
            ]
        )
        == 0
    )
    table = load_relations(words / "relations/mined", WORDS, 16).numpy()
    assert (table == llm_neighbours(NUS, WORDS, 16)[0].table).all()
