"""`c2srt relations mine` through files of a batch API: exported, answered elsewhere, imported."""

import json
from pathlib import Path

import pytest

from c2srt.cluster.cli import main
from tests.llm_server import LIST, MODEL, TARGET, LlmServer, as_json
from tests.mining_case import (
    RELATED,
    TARGETS,
    assert_same_relations,
    finals,
    make_words,
    mine,
    mined,
)


@pytest.fixture
def words(tmp_path, monkeypatch):
    return make_words(tmp_path, monkeypatch)


def batch_results(folder: Path, change=lambda number, row: row) -> Path:
    """What a batch API would answer to the exported files: a result a line, in another order."""
    rows = []
    for path in sorted(folder.glob("batch-*.jsonl")):
        for line in path.read_text().splitlines():
            request = json.loads(line)
            assert (request["method"], request["url"], request["body"]["model"]) == (
                "POST",
                "/v1/chat/completions",
                MODEL,
            )
            prompt = request["body"]["messages"][0]["content"]
            listed = set(LIST.search(prompt)[1].split("\n"))
            text = as_json([one for one in RELATED[TARGET.search(prompt)[1]] if one[0] in listed])
            body = {
                "model": MODEL,
                "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": len(prompt) // 4, "completion_tokens": 10},
            }
            rows.append(
                {
                    "id": f"batch_req_{len(rows)}",
                    "custom_id": request["custom_id"],
                    "error": None,
                    "response": {"status_code": 200, "body": body},
                }
            )
    path = folder / "results.jsonl"
    path.write_text(
        "".join(
            json.dumps(change(number, row)) + "\n"
            for number, row in reversed(list(enumerate(rows)))
        )
    )
    return path


def test_batches_are_exported_and_their_results_imported_into_the_same_ledger(
    words, monkeypatch, capsys
):
    monkeypatch.setattr("c2srt.relations.batch.REQUESTS", 12)
    monkeypatch.delenv("OPENAI_API_KEY")
    arguments = [
        "relations",
        "mine",
        f"work={words}",
        f"model={MODEL}",
        f"targets={json.dumps(TARGETS)}",
    ]

    def ill(number: int, row: dict) -> dict:
        content = row["response"]["body"]["choices"][0]["message"]
        if number == 3:
            return {
                **row,
                "response": None,
                "error": {"code": "batch_expired", "message": "out of time"},
            }
        if number == 4:
            return {**row, "response": {"status_code": 500, "body": {"error": "no"}}}
        if number == 5:
            content["content"] = content["content"][:-30]
        return {**row, "custom_id": "somebody-else"} if number == 6 else row

    assert main([*arguments, "--batch-export", f"{words}/batch"]) == 0
    assert [
        len(path.read_text().splitlines()) for path in sorted((words / "batch").glob("*.jsonl"))
    ] == [12, 12, 8]
    assert main([*arguments, f"batch_export={words}/batch"]) == 2
    assert "holds batch files already" in capsys.readouterr().err
    results = batch_results(words / "batch", ill)
    assert (
        main([*arguments, "--batch-import", str(results)])
        == 1
        == main([*arguments, f"batch_import=[{results}]"])
    )
    printed = capsys.readouterr().out
    assert all(
        line in printed
        for line in (
            "replies: ok: 28",
            "failed requests: 2",
            "replies: unparsable: 1",
            "unknown targets, passed over: 1",
            "results taken before: 31",
            "4 questions have no answer",
        )
    )
    assert main([*arguments, f"--batch-export={words}/rest"]) == 0
    assert main([*arguments, f"batch_import={batch_results(words / 'rest')}"]) == 0
    assert_same_relations(mined(words), TARGETS)
    assert set(finals(words).values()) == {1} and mined(words).provenance["endpoint"] == "batch"


def test_batch_results_of_other_questions_or_that_are_none_are_refused(words, capsys):
    arguments = [
        "relations",
        "mine",
        f"work={words}",
        f"model={MODEL}",
        f"targets={json.dumps(TARGETS)}",
    ]
    assert main([*arguments, f"batch_export={words}/batch", "seed=1", f"out={words}/other"]) == 0
    results = batch_results(words / "batch")
    assert main([*arguments, f"batch_import={results}"]) == 2
    assert "none of the 32 results in" in capsys.readouterr().err
    results.write_text('{"custom_id": "x", "response": null}\n{"half\n')
    for given, sentence in (
        (results, "results.jsonl, line 2: not a batch result"),
        ("/nowhere.jsonl", "cannot be read"),
        (words / "shards", "holds no .jsonl file"),
    ):
        assert main([*arguments, f"batch_import={given}"]) == 2
        assert sentence in capsys.readouterr().err
    assert main([*arguments, f"batch_import={results}", f"batch_export={words}/x"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_what_a_batch_left_open_can_be_asked_directly(words):
    assert mine(words, None, f"batch_export={words}/batch", f"model={MODEL}") == 0
    results = batch_results(
        words / "batch",
        lambda number, row: row if number % 2 else {**row, "error": {"code": "expired"}},
    )
    assert mine(words, None, f"batch_import={results}", f"model={MODEL}") == 1
    with LlmServer(RELATED) as server:
        assert mine(words, server) == 0
        assert len(server.served) == len(TARGETS) // 2
    assert_same_relations(mined(words), TARGETS)
