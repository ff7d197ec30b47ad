"""What `c2srt relations mine` refuses, and what it tells nobody."""

import json

import pytest

from c2srt.vocabulary import Vocabulary
from tests.llm_server import KEY, MODEL, LlmServer
from tests.mining_case import (
    RELATED,
    TARGETS,
    WORDS,
    assert_same_relations,
    finals,
    make_words,
    mine,
    mined,
)


@pytest.fixture
def words(tmp_path, monkeypatch):
    return make_words(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["budget=0"], "budget=0.0 must be an amount of USD above zero"),
        (["budget=-3"], "must be an amount of USD above zero"),
        (["price_input=null"], "say what a million tokens cost"),
        (["price_output=-1"], "say what a million tokens cost"),
        (["model=other-model"], "has no model 'other-model'"),
        (
            ["url=http://127.0.0.1:9/v1"],
            "http://127.0.0.1:9/v1 gives no usable reply: connection failed",
        ),
        (["url=ftp://example"], "url=ftp://example is not an address"),
        (["url='http://me:word@[::1/v1'"], "url=http://[::1/v1 is not an address"),
        (["url='https://…/v1'"], "url=https://…/v1 is not an address"),
        (["url=localhost:8000/v1"], "url=localhost:8000/v1 is not an address"),
        (["targets=[nature,unheard-of]"], "the label list has no category 'unheard-of'"),
        (["size=0"], "size=0 must be at least 1"),
        (["form=xml"], "form=xml is not known: choose one of auto, json, text"),
        (["candidates=all"], "candidates=all is not known"),
        (["sources=[magic]"], "sources: magic is not known"),
        (
            ["size=50", "sources=[similarity]"],
            "text/text.json does not exist: make it with `c2srt text work=",
        ),
        (["seen=/nowhere.txt"], "the label list /nowhere.txt cannot be read"),
        (["unseen=/nowhere.txt"], "unseen=… needs seen=… too"),
    ],
)
def test_bad_input_is_one_sentence(words, capsys, arguments, sentence):
    with LlmServer(RELATED) as server:
        assert mine(words, server, *arguments) == 2
        assert not server.served
    printed = capsys.readouterr()
    assert (
        sentence in printed.err
        and len(printed.err.strip().splitlines()) == 1
        and KEY not in printed.err + printed.out
    )


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("no credit", "has no credit left"),
        ("429 tomorrow", "asks to wait 86,400 s"),
        ("prompt cut", "cuts prompts off (40 tokens were read of a prompt of"),
        (
            "number",
            (
                "gives no usable reply: the reply's content is neither text nor chunks of it: '5';"
                " check url=…"
            ),
        ),
        ("words in 200", "gives no usable reply: the model is still loading\n"),
        ("broken body", "gives no usable reply: the body is no chat completion"),
    ],
)
def test_what_asking_again_cannot_mend_ends_the_run(words, capsys, fault, sentence):
    with LlmServer(RELATED, fault=lambda target, nth: fault) as server:
        assert mine(words, server) == 2
        assert len(server.served) <= 3
    assert sentence in capsys.readouterr().err


def test_key_model_and_address_come_from_the_environment(words, monkeypatch, capsys):
    with LlmServer(RELATED) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert mine(words, None, targets=TARGETS[:1]) == 2
        assert "no model: give model=… or set OPENAI_MODEL" in capsys.readouterr().err
        monkeypatch.setenv("OPENAI_MODEL", MODEL)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-key-987654")
        assert mine(words, None, targets=TARGETS[:1]) == 2
        assert "refuses the key in OPENAI_API_KEY (status 401)" in capsys.readouterr().err
        monkeypatch.delenv("OPENAI_API_KEY")
        assert mine(words, None, targets=TARGETS[:1]) == 2
        assert "no key: set OPENAI_API_KEY" in capsys.readouterr().err
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        assert mine(words, None, targets=TARGETS[:1]) == 0


def test_the_key_is_written_nowhere(words, capsys, monkeypatch):
    """The server echoes it in an error, in a refusal of it, and in an answer; it is also in the
    address.
    """
    faults = {TARGETS[0]: "500", TARGETS[1]: "echo"}
    with LlmServer(
        RELATED, fault=lambda target, nth: faults.get(target) if nth == 0 else None
    ) as server:
        with_user = server.url.replace("http://", "http://user:pass-4711@")
        assert mine(words, server, f"url={with_user}") in (0, 2)
        assert mine(words, server) == 0
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-key-987654")
        assert mine(words, server, f"out={words}/other") == 2
    printed = capsys.readouterr()
    texts = [path.read_text() for path in words.rglob("*.json*")] + [printed.out, printed.err]
    assert any("Your key is [key]" in text for text in texts)
    assert not any(secret in text for text in texts for secret in (KEY, "987654", "pass-4711"))


def test_a_ledger_of_another_list_or_other_settings_or_a_foreign_file_is_refused(words, capsys):
    with LlmServer(RELATED) as server:
        assert mine(words, server) == 0
        assert mine(words, server, "seed=1") == 2
        assert "was mined with seed=0, not 1: choose another out=…" in capsys.readouterr().err
        Vocabulary(WORDS.mids, WORDS.names, 900).save(words / "shards")
        assert mine(words, server) == 2
        assert (
            f"was mined for another label list (vocabulary {WORDS.hash}" in capsys.readouterr().err
        )
        WORDS.save(words / "shards")
        path = words / "relations/mined/ledger.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([*lines[:3], "no JSON\n", *lines[3:]]))
        assert mine(words, server) == 2
        assert "ledger.jsonl, line 4: not a ledger line" in capsys.readouterr().err
        path.write_text("hello\n")
        assert mine(words, server) == 2
        assert "is not a ledger of relations mine" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [0.999, 0.6, 0.02])
def test_a_torn_last_line_is_cut_off_and_only_what_is_missing_is_asked(words, kept, capsys):
    path = words / "relations/mined/ledger.jsonl"
    with LlmServer(RELATED) as server:
        assert mine(words, server) == 0
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * kept)])
        left = sum(
            bool(json.loads(line).get("final")) for line in path.read_bytes().split(b"\n")[:-1]
        )
        assert mine(words, server) == 0
        assert len(server.served) == len(TARGETS) + len(TARGETS) - left
    assert "of a line that a killed run left unfinished" in capsys.readouterr().out
    assert_same_relations(mined(words), TARGETS)
    assert set(finals(words).values()) == {1} and len(finals(words)) == len(TARGETS)


def test_a_first_try_with_a_wrong_model_does_not_bind_the_next(words):
    with LlmServer(RELATED) as server:
        assert mine(words, server, "model=other-model") == 2
        assert mine(words, server, "url=http://127.0.0.1:9/v1", "seed=3", "price_input=5") == 2
        assert mine(words, server, targets=TARGETS[:2]) == 0
    assert_same_relations(mined(words), TARGETS[:2])
