"""`c2srt relations mine` against a real HTTP server on loopback that answers from known relations
and fails on demand.
"""

import json
import signal
import time
from collections import Counter
from itertools import pairwise

import pytest

from c2srt.clients import retry_after
from c2srt.cluster.cli import main
from c2srt.relations.aggregate import averaged
from c2srt.relations.answers import read_answers
from c2srt.relations.prompt import make_labels, normalised
from c2srt.relations.table import load_relations
from c2srt.vocabulary import Vocabulary
from tests.llm_server import KEY, MODEL, LlmServer
from tests.mining_case import (
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
from tests.mining_process import CONTENT, TRANSPORT, start


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
