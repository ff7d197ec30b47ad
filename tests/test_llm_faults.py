"""What an endpoint refuses, cuts off, reports or cannot be reached with: the question's own
trouble, or a sentence.
"""

import re
from collections import Counter

import pytest

from c2srt.errors import UserError
from c2srt.sharding.config import Config as ShardConfig
from c2srt.sharding.urls import Downloader, UrlSource
from tests.llm_server import MODEL, LlmServer
from tests.mining_case import (
    RELATED,
    TARGETS,
    WORDS,
    assert_same_relations,
    ledger,
    make_words,
    mine,
    mined,
)


@pytest.fixture
def words(tmp_path, monkeypatch):
    return make_words(tmp_path, monkeypatch)


@pytest.mark.parametrize("fault", ["too long", "odd"])
def test_an_endpoint_that_refuses_every_request_ends_the_run(words, capsys, fault):
    with LlmServer(RELATED, fault=lambda target, nth: fault) as server:
        assert mine(words, server, "concurrency=1") == 2
        assert len({target for target, _ in server.served}) == 10
    assert "refuses every request (10 in a row; last: 400 " in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["filtered", "too long", "odd"])
@pytest.mark.parametrize("place", [0, 3])
def test_one_refused_prompt_costs_one_question(words, capsys, fault, place):
    """At every start again; the others keep their answers, and their answer form."""
    with LlmServer(
        RELATED, fault=lambda target, nth: fault if target == TARGETS[place] else None
    ) as server:
        for _ in range(2):
            assert mine(words, server) == 1
            printed = capsys.readouterr().out
            assert (
                "1 questions have no answer" in printed
                and f"refused: {TARGETS[place]}: 400 " in printed
            )
            assert (
                "questions that the endpoint refuses: 1" in printed
                and "asking in the text form" not in printed
            )
        assert Counter(target for target, _ in server.served) == dict.fromkeys(TARGETS, 1) | {
            TARGETS[place]: 4 if fault == "odd" else 2
        }  # what may be due to the form is tried in the other one
    assert_same_relations(mined(words), [target for target in TARGETS if target != TARGETS[place]])
    forms = {event["target"]: event["form"] for event in ledger(words) if event["event"] == "ask"}
    assert {forms[target] for target in TARGETS if target != TARGETS[place]} == {"json"}


def test_a_filter_that_refuses_many_in_a_row_does_not_end_the_run(words, capsys):
    with LlmServer(
        RELATED, fault=lambda target, nth: "filtered" if target in TARGETS[:12] else None
    ) as server:
        assert mine(words, server, "concurrency=1") == 1
    assert_same_relations(mined(words), TARGETS[12:])
    assert "12 questions have no answer" in capsys.readouterr().out


@pytest.mark.parametrize("structured", [True, False])
def test_a_server_that_knows_max_tokens_only_is_asked_with_it(words, capsys, structured):
    with LlmServer(RELATED, new_limit=False, structured=structured) as server:
        assert mine(words, server, "tries=1") == 0
    assert_same_relations(mined(words), TARGETS)
    printed = capsys.readouterr().out
    assert (
        "does not know max_completion_tokens (422 " in printed
        and "asking with max_tokens" in printed
    )
    assert ("refuses structured output (400 response_format" in printed) == (not structured)


def test_a_reply_cut_between_two_categories_is_asked_again_and_taken_at_last(words, capsys):
    with LlmServer(
        RELATED, fault=lambda target, nth: "whole but cut" if target == TARGETS[1] else None
    ) as server:
        assert mine(words, server, "form=text") == 0
        assert [target for target, _ in server.served].count(TARGETS[1]) == 3
    printed = capsys.readouterr().out
    assert (
        "replies: cut off: 3" in printed and "answers taken without what was cut off: 1" in printed
    )
    assert_same_relations(mined(words), TARGETS)


def test_a_reply_cut_while_thinking_is_no_answer(words, capsys):
    with LlmServer(
        RELATED, fault=lambda target, nth: "thinks on" if target == TARGETS[1] else None
    ) as server:
        assert mine(words, server) == 1
    assert (
        "the last reply that could not be read: the thinking has no end" in capsys.readouterr().out
    )
    assert TARGETS[1] not in mined(words).related


def test_a_prompt_that_is_cut_off_on_the_way_is_not_answered(words, capsys):
    """Seldom: that question stays open. Always: the run ends, before or after it had answers."""
    where = TARGETS[3:4]
    with LlmServer(
        RELATED, fault=lambda target, nth: "prompt cut" if target in where else None
    ) as server:
        assert mine(words, server) == 1
        assert "replies: prompt cut off: 3" in capsys.readouterr().out
        assert_same_relations(mined(words), [target for target in TARGETS if target != TARGETS[3]])
        where = list(WORDS.mids)
        assert mine(words, server) == 2
        assert mine(words, server, f"out={words}/other", "sources=[words]", "size=300") == 2
        assert (
            capsys.readouterr().err.count("cuts prompts off (40 tokens were read of a prompt of")
            == 2
        )
        where = []
        assert mine(words, server) == 0
    assert_same_relations(mined(words), TARGETS)


def test_a_rate_limit_told_with_status_200_holds_everybody_back_and_is_said(words, capsys):
    with LlmServer(RELATED, fault=lambda target, nth: "429 in 200") as server:
        assert mine(words, server, "tries=2", targets=TARGETS[:4]) == 1
        assert len(server.served) == 8
    assert "the last fault: 429 Slow down, please" in capsys.readouterr().out
    assert not any(event["billed"] for event in ledger(words) if event["event"] == "fault")


def test_counts_of_tokens_as_text_are_not_told_so_the_bound_counts(words):
    with LlmServer(RELATED, fault=lambda target, nth: "usage as text") as server:
        assert (
            mine(
                words, server, "price_input=10", "price_output=20", "max_output=3000", "budget=0.5"
            )
            == 1
        )
        assert 0 < len(server.served) < 6


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (
            "sk-proj-abc…def",
            "OPENAI_API_KEY holds a character that no key has (character 12, U+2026)",
        ),
        ("sk-a\nb", "(character 5, U+000A)"),
        ("sk a", "(character 3, U+0020)"),
        ("schlüssel", "(character 5, U+00FC)"),
    ],
)
def test_a_key_that_no_header_can_hold_is_one_sentence(words, monkeypatch, capsys, key, sentence):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    assert mine(words, None, f"model={MODEL}", "url=http://127.0.0.1:9/v1") == 2
    printed = capsys.readouterr()
    assert (
        sentence in printed.err
        and len(printed.err.strip().splitlines()) == 1
        and key not in printed.err
    )


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "ALL_PROXY",
            "socks://me:word@127.0.0.1:7891",
            "ALL_PROXY=socks://127.0.0.1:7891 is a proxy that is not understood",
        ),
        (
            "all_proxy",
            "socks5://127.0.0.1:7891",
            "all_proxy=socks5://127.0.0.1:7891 is a proxy that is not understood",
        ),
        (
            "HTTPS_PROXY",
            "ftp://127.0.0.1:7891",
            "HTTPS_PROXY=ftp://127.0.0.1:7891 is a proxy that is not understood",
        ),
        ("HTTP_PROXY", "http://me:word@[::1", "HTTP_PROXY=http://[::1"),
        ("SSL_CERT_FILE", "/nowhere.pem", "SSL_CERT_FILE=/nowhere.pem"),
    ],
)
def test_a_proxy_or_certificate_that_cannot_be_used_is_one_sentence(
    words, monkeypatch, capsys, name, value, sentence
):
    for other in (
        "ALL_PROXY",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    ):
        monkeypatch.delenv(other, raising=False)
        monkeypatch.delenv(other.lower(), raising=False)
    monkeypatch.setenv(name, value)
    assert mine(words, None, f"model={MODEL}", "url=http://127.0.0.1:9/v1") == 2
    printed = capsys.readouterr().err
    assert (
        sentence in printed
        and "unset" in printed
        and len(printed.strip().splitlines()) == 1
        and "word" not in printed
    )
    with pytest.raises(UserError, match=re.escape(sentence)):
        Downloader(ShardConfig())
    with pytest.raises(UserError, match=re.escape(sentence)):
        UrlSource()
