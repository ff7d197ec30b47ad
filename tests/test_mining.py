"""`c2srt relations mine` against a real HTTP server on loopback that answers from known relations
and fails on demand.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from c2srt.clients import retry_after
from c2srt.relations.aggregate import averaged
from c2srt.relations.answers import read_answers, shipped_answers
from c2srt.relations.mine import Config
from c2srt.relations.prompt import make_labels, normalised
from c2srt.relations.questions import make_questions
from c2srt.relations.table import load_relations
from c2srt.vocabulary import Vocabulary, open_images_v4
from cluster.cli import main
from tests.llm_server import KEY, LIST, MODEL, TARGET, LlmServer, as_json, relations_by_label
from tests.mining_case import (
    FREE,
    NUS,
    RELATED,
    TARGETS,
    WORDS,
    assert_same_relations,
    finals,
    ledger,
    make_words,
    mine,
    mined,
)
from tests.train_command import as_from_a_terminal


@pytest.fixture
def words(tmp_path, monkeypatch):
    return make_words(tmp_path, monkeypatch)


@pytest.mark.parametrize(("form", "structured"), [("auto", True), ("auto", False), ("text", True)])
def test_the_mined_relations_are_the_servers_in_both_forms(words, form, structured, capsys):
    with LlmServer(RELATED, structured=structured) as server:
        assert mine(words, server, f"form={form}") == 0
        assert len(server.served) == len(TARGETS) and {
            target for target, _ in server.served
        } == set(TARGETS)
    assert_same_relations(mined(words), TARGETS)
    assert "32 of 32 categories answered" in capsys.readouterr().out
    provenance = mined(words).provenance
    assert (
        provenance["model"] == f"{MODEL}-2026"
        and provenance["queries"] == 1
        and provenance["prompt"] == "b3-1"
    )
    refused = form == "auto" and not structured
    assert provenance["requests"] == len(TARGETS) + refused and provenance["faults"] == refused


def test_the_same_command_again_asks_nothing_and_needs_no_key(words, monkeypatch):
    with LlmServer(RELATED) as server:
        assert mine(words, server) == 0
        before = (words / "relations/mined/relations.jsonl").read_bytes()
        monkeypatch.delenv("OPENAI_API_KEY")
        assert mine(words, server) == 0
        assert len(server.served) == len(TARGETS)
    assert (words / "relations/mined/relations.jsonl").read_bytes() == before


def test_a_graph_is_built_from_the_mined_file(words):
    from c2srt.relations.answers import llm_neighbours

    with LlmServer(RELATED) as server:
        assert mine(words, server) == 0
    assert (
        main(
            [
                "relations",
                "build",
                f"work={words}",
                f"relations_file={words}/relations/mined/relations.jsonl",
                "neighbours=16",
            ]
        )
        == 0
    )
    shipped, _ = llm_neighbours(NUS, WORDS, 16)
    table = load_relations(words / "relations/mined", WORDS, 16).numpy()
    rows = [WORDS.index[target] for target in TARGETS]
    assert (table[rows] == shipped.table[rows]).all()
    provenance = json.loads((words / "relations/mined/relations.json").read_text())
    assert (
        provenance["model"] == f"{MODEL}-2026"
        and provenance["settings"]["vocabulary"] == WORDS.hash
    )


def test_a_trial_keeps_the_other_graph_and_what_was_mined_before(words):
    """The README's own sequence: mine a trial, build, report; the relations that came with the data
    set stay as they are.
    """
    build = [
        "relations",
        "build",
        f"work={words}",
        f"relations_file={words}/relations/mined/relations.jsonl",
    ]
    assert main(["relations", f"work={words}"]) == 0
    before = {path.name: path.read_bytes() for path in (words / "relations/llm").iterdir()}
    with LlmServer(RELATED) as server:
        assert mine(words, server, targets=["nature", "Beach"]) == 0 == main(build)
        assert {
            path.name: path.read_bytes() for path in (words / "relations/llm").iterdir()
        } == before
        table = load_relations(words / "relations/mined", WORDS, 8)
        assert WORDS.names[-1] != "beach" and (table >= 0).any(
            1
        ).nonzero().flatten().tolist() == sorted([WORDS.index["nature"], WORDS.index["beach"]])
        assert mine(words, server) == 0 == main(build)
        assert mine(words, server, targets=["nature"]) == 0 == main(build)
    assert_same_relations(mined(words), sorted({*TARGETS, "beach"}, key=WORDS.index.get))
    assert main(["relations", "report", f"work={words}"]) == 0
    report = json.loads((words / "relations/report/report.json").read_text())
    assert list(report["graphs"]) == ["llm", "mined"]


TRANSPORT = [
    "429",
    "429 after",
    "500",
    "drop",
    "half",
    "broken body",
    "429 in 200",
    "words in 200",
    "number",
]
CONTENT = ["cut", "invented", "nonsense", "refusal", "whole but cut", "thinks on"]


def test_every_fault_is_overcome_recorded_and_asked_again(words):
    """Each target but the first meets two different faults, then a good reply."""
    kinds = len(TRANSPORT + CONTENT)
    faults = {
        target: ((TRANSPORT + CONTENT)[number % kinds], (CONTENT + TRANSPORT)[number % kinds])
        for number, target in enumerate(TARGETS)
        if number
    }
    with LlmServer(
        RELATED,
        fault=lambda target, nth: (
            faults.get(target, ())[nth] if nth < len(faults.get(target, ())) else None
        ),
    ) as server:
        assert mine(words, server) == 0
        assert Counter(target for target, _ in server.served) == {
            target: 3 if target in faults else 1 for target in TARGETS
        }
    assert_same_relations(mined(words), TARGETS)
    events = ledger(words)
    assert set(finals(words).values()) == {1} and len(finals(words)) == len(TARGETS)
    served = Counter(fault for _, fault in server.served)
    assert sum(event["event"] == "fault" for event in events) == sum(
        served[fault] for fault in TRANSPORT
    )
    verdicts = Counter(event["verdict"] for event in events if event["event"] == "reply")
    cut = served["cut"] + served["whole but cut"] + served["thinks on"]
    assert verdicts == {
        "ok": 32,
        "cut off": cut,
        "invented": served["invented"],
        "unparsable": served["nonsense"],
        "refused": served["refusal"],
    }
    assert all(
        "Blorple" in event["text"] and event["unusable"] == ["Blorple", "Quux of old"]
        for event in events
        if event.get("verdict") == "invented"
    )
    assert KEY not in (words / "relations/mined/ledger.jsonl").read_text()


@pytest.mark.parametrize("fault", ["prose", "chunks", "thinks"])
def test_text_around_the_answer_is_read(words, fault):
    with LlmServer(RELATED, fault=lambda target, nth: fault) as server:
        assert (
            mine(words, server) == 0 and mine(words, server, "form=text", f"out={words}/other") == 0
        )
        assert len(server.served) == 2 * len(TARGETS)
    assert_same_relations(mined(words), TARGETS)


def test_a_slow_reply_is_asked_for_again_in_time(words):
    with LlmServer(
        RELATED, fault=lambda target, nth: "slow" if nth == 0 and target == TARGETS[3] else None
    ) as server:
        assert mine(words, server, "timeout_s=0.5") == 0
        assert server.served.count((TARGETS[3], None)) == 1
    assert any(
        event.get("reason") == "no reply in time" and event["billed"] for event in ledger(words)
    )


def test_retry_after_holds_everybody_back(words):
    times = []

    def fault(target: str, nth: int) -> str | None:
        times.append(time.monotonic())
        return "429 after" if len(times) == 9 else None

    with LlmServer(RELATED, fault=fault, delay_s=0.02) as server:
        assert mine(words, server, "concurrency=4") == 0
    gaps = [later - earlier for earlier, later in pairwise(times[8:])]
    assert max(gaps) > 0.25  # the server asked for 0.3 s; the first back-off alone would be 0.01 s


def test_a_burst_of_rate_limits_is_one_pause_not_many_doublings(words):
    """All eight requests under way are refused at once, twice; then all is well."""
    count = 0

    def fault(target: str, nth: int) -> str | None:
        nonlocal count
        count += 1
        return "429" if 1 < count <= 17 else None

    with LlmServer(RELATED, fault=fault, delay_s=0.1) as server:
        assert (
            mine(words, server, "concurrency=8", "backoff_s=0.1") == 0
        )  # doubling for each of the sixteen takes over an hour
    assert server.most_at_once == 8 and len(server.served) == len(TARGETS) + 16


def test_retry_after_is_read_as_seconds_or_as_a_date():
    from email.utils import formatdate

    assert retry_after("1.5") == 1.5 and retry_after(None) is None and retry_after("soon") is None
    before = time.time()
    found = retry_after(formatdate(before + 30, usegmt=True))  # in whole seconds
    assert 29 - (time.time() - before) <= found <= 30
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@pytest.mark.slow
def test_an_interrupted_run_says_how_to_go_on(words):
    with LlmServer(RELATED, delay_s=0.05) as server:
        process = start(words, server, "concurrency=4")
        while len(server.served) < 30:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (
            process.returncode == 130
            and "run the same command again to go on" in errors
            and "Traceback" not in errors
        )
        left = sum(finals(words).values())
        assert 20 < left <= len(server.served) and set(finals(words).values()) == {1}


def test_replies_that_are_never_clean_are_taken_without_their_inventions_or_left_open(
    words, capsys
):
    forever = {TARGETS[1]: "invented", TARGETS[2]: "nonsense", TARGETS[3]: "500"}
    ill = True
    with LlmServer(
        RELATED, fault=lambda target, nth: forever.get(target) if ill else None
    ) as server:
        assert mine(words, server, "attempts=2", "tries=3") == 1
        asked = Counter(target for target, _ in server.served)
        assert (asked[TARGETS[1]], asked[TARGETS[2]], asked[TARGETS[3]]) == (2, 2, 3)
        assert_same_relations(
            mined(words), [target for target in TARGETS if target not in TARGETS[2:4]]
        )
        assert "2 questions have no answer" in capsys.readouterr().out
        ill = False
        assert mine(words, server, "attempts=2", "tries=3") == 0
        assert len(server.served) == sum(asked.values()) + 2
    assert_same_relations(mined(words), TARGETS)
    assert set(finals(words).values()) == {1}


def test_an_unclean_reply_is_not_taken_before_its_turn(words):
    """One invented reply, then only faults: the question stays open, and the next run gets a clean
    answer.
    """
    ill = True
    with LlmServer(
        RELATED,
        fault=lambda target, nth: (
            (["invented"] + ["500"] * 9)[nth] if ill and target == TARGETS[5] else None
        ),
    ) as server:
        assert mine(words, server, "tries=3") == 1
        ill = False
        assert mine(words, server, "tries=3") == 0
        assert sum(target == TARGETS[5] for target, _ in server.served) == 5
    assert_same_relations(mined(words), TARGETS)


def test_several_queries_are_averaged_over_shuffled_lists(words):
    """The second query about the first target names nothing, and calls the first relation of the
    second target weaker.
    """
    one, two = TARGETS[:2]

    def reply(target, nth, related):
        if nth and target == one:
            return []
        return (
            [(related[0][0], related[0][1], "Low"), *related[1:]]
            if nth and target == two
            else related
        )

    with LlmServer(RELATED, reply=reply) as server:
        assert mine(words, server, "queries=2", "concurrency=1", targets=[one, two]) == 0
    found, lists = mined(words), [prompt.split("one a line:\n")[1] for prompt in server.prompts]
    assert (
        len(set(lists)) == 4
        and len({tuple(sorted(names.split("\n\n")[0].split("\n"))) for names in lists[::2]}) == 1
    )
    assert [answer.strength for answer in found.related[one]] == sorted(
        (answer.strength / 2 for answer in NUS.related[one]), reverse=True
    )
    first = NUS.related[two][0]
    assert (
        next(answer.strength for answer in found.related[two] if answer.key == first.key)
        == (first.strength + 1) / 2
    )
    with LlmServer(
        RELATED
    ) as server:  # a third query is added to the ledger, the first two are not asked again
        assert mine(words, server, "queries=3", targets=[one, two]) == 0
        assert len(server.served) == 2


def test_mean_strength_then_mentions_then_place_then_column_decide():
    answers = {
        (0, 0): [[7, "is-a", 3], [5, "is-a", 2], [3, "part-whole", 1]],
        (1, 0): [[3, "is-a", 2], [5, "is-a", 1], [2, "is-a", 3]],
        (1, 1): [[9, "functional", 3]],
    }
    assert averaged(answers) == [
        (3, "part-whole", 1.5),
        (5, "is-a", 1.5),
        (7, "is-a", 1.5),
        (9, "functional", 1.5),
        (2, "is-a", 1.5),
    ]


def test_pages_show_every_seen_category_once_and_find_the_same_relations(words):
    with LlmServer(RELATED) as server:
        assert (
            mine(words, server, "candidates=pages", "size=200", targets=TARGETS[:3] + TARGETS[-1:])
            == 0
        )
    assert len(server.served) == 4 * 5
    for target in TARGETS[:3] + TARGETS[-1:]:
        lists = [
            prompt.split("one a line:\n")[1].split("\n\n")[0].split("\n")
            for prompt in server.prompts
            if f'new category "{target}". For' in prompt
        ]
        shown = [name for names in lists for name in names]
        assert sorted(shown) == sorted(set(WORDS.mids[:925]) - {target})
        assert {(one.key, one.strength) for one in mined(words).related[target]} == {
            (one.key, one.strength) for one in NUS.related[target]
        }


def test_a_hard_budget_is_never_passed_and_mining_goes_on_with_a_larger_one(words, capsys):
    """The server's own token counts are the bill."""
    prices = {"price_input": 10.0, "price_output": 20.0}
    arguments = [f"{key}={value}" for key, value in prices.items()] + [
        "max_output=3000",
        "concurrency=4",
    ]

    def bill(server: LlmServer) -> float:
        return (server.tokens["prompt_tokens"] * 10 + server.tokens["completion_tokens"] * 20) / 1e6

    with LlmServer(RELATED) as server:
        assert mine(words, server, *arguments, "budget=0.5") == 1
        first = len(server.served)
        assert 0.3 < bill(server) <= 0.5 and 3 < first < len(TARGETS)
        printed = capsys.readouterr().out
        assert (
            "about" in printed
            and "the budget will not do" in printed
            and "0.50 USD is used up" in printed
        )
        assert mine(words, server, *arguments, "budget=0.5") == 1
        assert len(server.served) == first
        assert mine(words, server, *arguments, "budget=9") == 0
        assert len(server.served) == len(TARGETS)
    assert mined(words).provenance["spent_usd"] == pytest.approx(bill(server), abs=1e-4)
    assert (
        mine(
            words,
            None,
            "budget=1e-9",
            f"out={words}/other",
            f"model={MODEL}",
            "url=http://127.0.0.1:9/v1",
            *arguments,
        )
        == 1
    )


def test_without_usage_in_the_replies_the_upper_bound_counts_as_spent(words):
    with LlmServer(RELATED, usage=False) as server:
        assert (
            mine(
                words, server, "price_input=10", "price_output=20", "max_output=3000", "budget=0.5"
            )
            == 1
        )
        assert len(server.served) < 6
    assert 0.3 < sum(event["cost"] for event in ledger(words) if event["event"] == "reply") <= 0.5


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


def test_two_runs_at_once_are_refused(words, capsys):
    from c2srt.relations.ledger import Ledger

    with (
        LlmServer(RELATED) as server,
        Ledger(words / "relations/mined/ledger.jsonl", {"vocabulary": "x"}),
    ):
        assert mine(words, server) == 2
    assert "another command is writing" in capsys.readouterr().err


ODD = [
    "Hors d'oeuvre",
    'The "Rock"',
    "Bánh mì",
    "寿司",
    "two\nlines",
    "  padded ",
    "{target}",
    "Spring",
    "Spring",
    "spring",
    "C++",
    "a: b",
]


def test_odd_names_are_asked_about_and_recognised(words):
    """Names with quotes, newlines, other scripts, braces; and three categories of one name, told
    apart by MID.
    """
    mids = tuple(f"/m/{number}" for number in range(len(ODD)))
    vocabulary = Vocabulary(mids, tuple(ODD), len(ODD) - 1)
    vocabulary.save(words / "shards")
    labels = make_labels(vocabulary).shown
    assert (
        labels[4] == "two lines"
        and labels[7] == "Spring (/m/7)"
        and len(set(map(normalised, labels))) == len(ODD)
    )
    ring = {
        label: [
            (labels[(row + step) % (len(ODD) - 1)], "is-a", strength)
            for step, strength in ((1, "High"), (2, "Medium"))
        ]
        for row, label in enumerate(labels)
    }
    for form in ("json", "text"):
        with LlmServer(ring) as server:
            assert mine(words, server, f"form={form}", f"out={words}/{form}", targets=None) == 0
        found = read_answers(words / form / "relations.jsonl").related
        for row, mid in enumerate(mids):
            kept = [mids[(row + step) % (len(ODD) - 1)] for step in (1, 2)]
            assert [answer.key for answer in found[mid]] == [key for key in kept if key != mid]


def test_a_label_list_of_ones_own(words, capsys):
    (words / "seen.txt").write_text("\n".join(WORDS.mids[:30]) + "\n")
    (words / "unseen.txt").write_text("/m/x\tbeach\n")
    lists = (f"seen={words}/seen.txt", f"unseen={words}/unseen.txt")
    shown = {**RELATED, "beach": [(WORDS.mids[2], "co-occurrence", "High")]}
    with LlmServer(shown) as server:
        assert mine(words, server, *lists, targets=None) == 0
        assert len(server.served) == 31
        assert [one.key for one in mined(words).related["/m/x"]] == [WORDS.mids[2]]
        for text, sentence in (
            ("sky\nsea\nsky\n", "category sky is in the vocabulary twice"),
            ("sky\n\nsea\n", "line 2: an empty name"),
            ("sky\n/m/1\t \n", "line 2: an empty name"),
            ("", "is empty"),
            ("sky\n", "fewer than two seen"),
        ):
            (words / "seen.txt").write_text(text)
            assert mine(words, server, lists[0], targets=None) == 2
            assert sentence in capsys.readouterr().err


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


def start(folder: Path, server: LlmServer, *arguments: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "cluster.cli",
        "relations",
        "mine",
        f"work={folder}",
        f"url={server.url}",
        f"model={MODEL}",
        *FREE,
        *arguments,
    ]
    return subprocess.Popen(
        command,
        env={**os.environ, "OPENAI_API_KEY": KEY, "OMP_NUM_THREADS": "1"},
        preexec_fn=as_from_a_terminal,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


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


def test_a_trial_never_replaces_answers_that_its_ledger_has_not(words, capsys):
    """A full relations file whose ledger is elsewhere, or was removed."""
    kept = words / "relations/mined/relations.jsonl"
    with LlmServer(RELATED) as server:
        assert mine(words, server) == 0
        (kept.parent / "ledger.jsonl").unlink()
        whole, asked = kept.read_bytes(), len(server.served)
        assert mine(words, server, targets=TARGETS[:2]) == 2
        assert (
            f"{kept} was left as it is: it has answers for {len(TARGETS) - 2} categories"
            in capsys.readouterr().err
        )
        assert kept.read_bytes() == whole and len(server.served) == asked, "nothing was asked"
        assert mine(words, server) == 0, "all of them asked again"
