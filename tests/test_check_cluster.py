"""`c2srt check cluster`: what the nodes' reports mean, by hand; and checks of several probes on
this machine. tests/test_slurm_check.py breaks the nodes of a real Slurm.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from c2srt.check.config import Config, from_words
from c2srt.check.nodes import feeding, places, reach, wire
from c2srt.check.nodes.course import Reports
from c2srt.check.nodes.hub import Hub
from c2srt.check.nodes.judge import FAULT, WARNING, judge
from c2srt.check.nodes.plan import MACHINE, PARTS, Places, Plan, chosen
from c2srt.check.nodes.probe import TOKEN
from c2srt.check.nodes.rounds import rounds
from c2srt.check.nodes.run import Here, Processes, check_nodes, probe_words, sentences
from c2srt.check.nodes.table import page
from c2srt.check.nodes.units import amount
from c2srt.check.run import run
from c2srt.cluster.check_node import places_of
from c2srt.errors import UserError
from tests.shard_folder import make_shards, make_vocabulary

GIB = 2**30
NAMES = ["n1", "n2", "n3"]
VERSIONS = {
    "c2srt": "0.1.0",
    "source": "aa11",
    "commit": "c0ffee",
    "Python": "3.11.7",
    "torch": "2.15.0",
    "GPUs": "8 × H200",
    "driver": "570.1",
}
MACHINE_ANSWER = {
    "shared_memory": 64 * GIB,
    "temporary": 500 * GIB,
    "temporary_folder": "/tmp",
    "files": 65536,
}


def healthy(names: list[str] = NAMES) -> Reports:
    """Nodes of which nothing is to be said."""
    each = {
        "hello": {"address": "10.0.0.1"},
        "clock": {"offset": 0.0, "error": 0.001},
        "versions": VERSIONS,
        "machine": MACHINE_ANSWER,
        "places": {
            "shards": {"path": "/s", "there": True, "entries": 9, "fingerprint": "f0"},
            "work": {"path": "/w", "there": True, "nearest": "/w", "word": "w"},
        },
        "listen": {"any": 1, "open": [2], "taken": {}},
        "visit": {"failed": {}},
        "torch": {"gpus": 8, "without": ""},
        "all_reduce": {"bytes": 2**28, "seconds": 0.1},
        "loader": {"images_s": 1000.0, "processes": 8},
    }
    answers = {what: {name: dict(answer) for name in names} for what, answer in each.items()}
    answers["words"] = {name: {"work": [names[0]] if name != names[0] else []} for name in names}
    pairs = {(a, b): 1e10 for i, a in enumerate(names) for b in names[i + 1 :]}
    return Reports(list(names), answers, pairs=pairs, written=["work"])


def changed(what: str, node: str, **values) -> Reports:
    """The healthy nodes but for one answer."""
    reports = healthy()
    reports.answers[what][node] = {**reports.answers[what][node], **values}
    return reports


def said(reports: Reports) -> list[str]:
    return [str(finding) for finding in judge(reports)]


def test_of_nodes_that_are_well_nothing_is_said():
    assert said(healthy()) == [] and said(healthy(["n1"])) == [] and said(healthy(NAMES[:2])) == []
    text = page(healthy(), [], 12.3, "record: /r")
    assert text.splitlines()[0].split() == (
        ["node", "state", "clock", "/dev/shm", "C2SRT_TMP", "files", "slowest", "link", "loader"]
    )
    assert "n3    ok     +0.000 s  64.0 GiB" in text and "9.3 GiB/s (n1)" in text
    assert "commit c0ffee, Python 3.11.7, torch 2.15.0" in text
    assert text.endswith("3 nodes looked at in 12 s: 0 faults, 0 warnings; record: /r")


def test_the_node_in_the_minority_has_the_wrong_version():
    reports = changed("versions", "n2", torch="2.11.0")
    assert said(reports) == [
        "FAULT n2: torch 2.11.0, and 2.15.0 on 2 other nodes: install the same environment on every"
        " node"
    ]
    assert "n2    FAULT  2.11.0" in page(reports, judge(reports), 1, "")
    assert said(changed("versions", "n3", source="bb22", commit="0ldc0de")) == [
        "FAULT n3: source bb22 (commit 0ldc0de), and aa11 (commit c0ffee) on 2 other nodes: update"
        " the checkout, or the package, on every node"
    ]
    assert said(changed("versions", "n3", commit="other")) == []  # of the same source
    assert [finding.state for finding in judge(changed("versions", "n1", driver="550.2"))] == [
        WARNING
    ]


def test_of_two_nodes_that_differ_both_are_named():
    reports = healthy(NAMES[:2])
    reports.answers["versions"]["n2"]["torch"] = "2.11.0"
    assert said(reports) == [
        "FAULT n1, n2: n1 has torch 2.15.0; n2 has torch 2.11.0: install the same environment on"
        " every node"
    ]


def test_a_ray_head_without_gpus_is_no_stranger():
    reports = changed("versions", "n1", GPUs="none", driver="none")
    reports.answers["torch"]["n1"]["gpus"] = 0
    assert said(reports) == []


def test_cards_that_torch_cannot_use():
    (found,) = judge(changed("torch", "n2", gpus=0, without="the driver is too old"))
    assert (found.node, found.state) == ("n2", FAULT) and "too old" in found.says


def test_the_clock_is_off_from_the_others_median():
    """By 40 s, then by 2 s; measured no better than that it says nothing."""
    (found,) = judge(changed("clock", "n3", offset=40.0))
    assert (found.node, found.state) == ("n3", FAULT)
    assert found.says.startswith("the clock is +40.0 s from the others' (± 0.001 s)")
    (found,) = judge(changed("clock", "n1", offset=-2.0))
    assert (found.node, found.state) == ("n1", WARNING) and "-2.0 s" in found.says
    assert said(changed("clock", "n1", offset=-2.0, error=2.0)) == []
    reports = healthy(NAMES[:2])
    reports.answers["clock"]["n2"]["offset"] = 40.0
    assert [finding.node for finding in judge(reports)] == ["n1, n2"]


@pytest.mark.parametrize(
    "have, state, words",
    [
        ({"shared_memory": 64 << 20}, FAULT, "/dev/shm: 64.0 MiB free, and a training wants 1.0"),
        ({"shared_memory": None}, FAULT, "/dev/shm is not there"),
        ({"shared_memory": 3 * GIB // 4}, WARNING, "/dev/shm: 768.0 MiB free"),
        ({"temporary": 8 << 20}, FAULT, "C2SRT_TMP (/tmp): 8.0 MiB free"),
        ({"temporary": 3 * GIB}, WARNING, "C2SRT_TMP (/tmp): 3.0 GiB free"),
        ({"files": 256}, FAULT, "open files at once: 256, and a training wants 4096"),
        ({"files": 2048}, WARNING, "open files at once: 2048"),
    ],
)
def test_what_a_node_has_too_little_of(have, state, words):
    (found,) = judge(changed("machine", "n2", **have))
    assert (found.node, found.state) == ("n2", state) and found.says.startswith(words), found


def test_folders_are_there_readable_and_the_same_everywhere():
    reports = healthy()
    reports.answers["places"]["n2"]["shards"] = {"path": "/s", "there": False}
    assert said(reports) == [
        "FAULT n2: shards=/s is not there, and n1 sees it: mount it on this node"
    ]
    for node in NAMES:
        reports.answers["places"][node]["shards"] = {"path": "/s", "there": False}
    assert said(reports) == []  # not made yet
    reports = healthy()
    reports.answers["places"]["n3"]["shards"] = {
        "path": "/s",
        "there": True,
        "entries": 9,
        "fingerprint": "f1",
    }
    (found,) = judge(reports)
    assert found.node == "n3" and "/s is not the same folder everywhere" in found.says
    reports = healthy()
    reports.answers["places"]["n1"]["work"] = {
        "path": "/w",
        "there": True,
        "nearest": "/w",
        "unwritable": "Read-only file system",
    }
    reports.answers["words"] = {"n2": {"work": ["n3"]}, "n3": {"work": ["n2"]}}
    (found,) = judge(reports)
    assert found.node == "n1" and "work cannot be written in /w (Read-only file" in found.says


def test_a_folder_of_its_own_is_found_by_the_words_that_are_missing():
    """n3 sees nobody's word: its folder is another one. Of two nodes either may be the odd one."""
    reports = healthy()
    reports.answers["words"]["n3"] = {"work": []}
    (found,) = judge(reports)
    assert found.node == "n3" and "/w is not the folder of the other nodes" in found.says
    reports.answers["words"]["n2"] = {"work": []}
    assert [finding.node for finding in judge(reports)] == ["n1, n2, n3"]
    reports.answers["words"]["n3"] = {"work": ["n2"]}
    assert [finding.node for finding in judge(reports)] == ["n1"]


def test_ports_that_are_held_and_nodes_that_are_not_reached():
    (found,) = judge(changed("listen", "n2", taken={"16003": "Address already in use"}))
    assert (found.node, found.state) == ("n2", WARNING) and "16003 (Address" in found.says
    reports = changed("visit", "n1", failed={"n3": {"16000": "no answer"}})
    reports.answers["visit"]["n2"] = {"failed": {"n3": {"16000": "no answer"}}}
    (found,) = judge(reports)
    assert (found.node, found.state) == ("n3", FAULT)
    assert found.says.startswith("not reached by 2 other nodes, port 16000 (no answer): let the")
    alone = {other: {"16000": "No route to host"} for other in ("n1", "n2")}
    (found,) = judge(changed("visit", "n3", failed=alone))
    assert found.node == "n3" and "it does not reach n1, n2, port 16000" in found.says


def test_the_node_with_only_slow_links_is_the_slow_one():
    """10 GB/s but for the links of n3, 1 MB/s: two of three pairs, and still n3 alone is named."""
    reports = healthy()
    reports.pairs |= {("n1", "n3"): 1e6, ("n2", "n3"): 1e6}
    (found,) = judge(reports)
    assert (found.node, found.state) == ("n3", WARNING)
    assert found.says.startswith("its link is slow: 976.6 KiB/s, and 9.3 GiB/s is usual here")
    reports = healthy([*NAMES, "n4"])
    reports.pairs[("n1", "n4")] = 1e6
    (found,) = judge(reports)
    assert found.node == "n1, n4" and "look at the switches between them" in found.says
    reports.pairs = dict.fromkeys(reports.pairs, 1e6)
    (found,) = judge(reports)
    assert found.node == "n1, n2, n3, n4" and "GLOO_SOCKET_IFNAME" in found.says
    reports.pairs = {("n1", "n2"): "they do not exchange"}
    assert [(finding.node, finding.state) for finding in judge(reports)] == [("n1, n2", FAULT)]


def test_a_node_that_loads_slowly():
    (found,) = judge(changed("loader", "n2", images_s=400.0))
    assert (found.node, found.state) == ("n2", WARNING) and "400 images/s, and 1000" in found.says
    (found,) = judge(changed("loader", "n2", fault="train-000003.tar is damaged"))
    assert (found.node, found.state) == ("n2", FAULT) and "train-000003" in found.says


def test_a_silent_node_is_named_with_what_it_was_asked():
    reports = healthy()
    reports.silent = {
        "n2": {"asked": "places", "says": "no answer within 15 s"},
        "n3": {"asked": "torch", "says": "no answer within 45 s"},
    }
    assert [(finding.node, finding.state) for finding in judge(reports)] == [
        ("n2", FAULT),
        ("n3", WARNING),
    ]
    assert sentences(judge(reports)) == (
        "FAULT n2: no answer within 15 s: look at the node, or leave it out"
    )


@pytest.mark.parametrize("count", [2, 3, 4, 7, 64])
def test_all_pairs_meet_once_and_nobody_twice_in_a_round(count):
    games = rounds(count)
    assert len(games) == count - 1 + count % 2
    pairs = [pair for game in games for pair in game]
    assert sorted(pairs) == [(a, b) for a in range(count) for b in range(a + 1, count)]
    assert all(len({*sum(game, ())}) == 2 * len(game) for game in games)


def test_bytes_in_words():
    assert [amount(count) for count in (0, 1023, 1536, 3 * 2**40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.0 TiB",
    ]


# --- several probes on this machine

QUICK = chosen(["versions", "clock", "machine", "places", "reach"])
SECONDS = 300.0
"""The tests' machine may be busy; no answer is waited for that does not come."""


@pytest.fixture
def shards(tmp_path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "index.json").write_text("{}")
    return folder


def plan(shards: Path, **more) -> Plan:
    found = Places({"shards": str(shards)}, {"work": str(shards.parent / "w")})
    return Plan(found, seconds=SECONDS, **({"parts": QUICK} | more))


def test_three_probes_are_looked_at_and_leave_nothing(shards, capsys):
    record = shards.parent / "record/cluster.json"
    assert check_nodes(NAMES, plan(shards), Here, record) == []
    content = json.loads(record.read_text())
    answers = content["answers"]
    assert (
        content["findings"] == [] and content["silent"] == {} and set(content["names"]) == {*NAMES}
    )
    assert {answer["error"] < 5 for answer in answers["clock"].values()} == {True}
    assert all(abs(answer["offset"]) <= answer["error"] for answer in answers["clock"].values())
    assert {name: answer["work"] for name, answer in answers["words"].items()} == {
        "n1": ["n2"],
        "n2": ["n1", "n3"],
        "n3": ["n1"],
    } or sorted(answers["words"]["n2"]["work"]) == ["n1", "n3"]
    assert "token" not in answers["hello"]["n1"]
    assert list(shards.parent.rglob(".c2srt-check-*")) == []
    assert "3 nodes looked at in" in capsys.readouterr().out


def test_a_rank_a_probe_measures_the_links(shards, capsys):
    record = shards.parent / "cluster.json"
    check_nodes(NAMES, plan(shards, parts=chosen(["links"])), Here, record)
    content = json.loads(record.read_text())
    assert content["silent"] == {}, content
    assert [pair["nodes"] for pair in content["pairs"]] == [
        ["n2", "n3"],
        ["n1", "n3"],
        ["n1", "n2"],
    ]
    assert all(pair["found"] > 0 for pair in content["pairs"])
    assert "all-reduce of" in capsys.readouterr().out


class Stopped(Here):
    """The second probe stands still from its start on, the third never starts."""

    def __init__(self, hub: Hub, plan: Plan) -> None:
        command = [sys.executable, "-m", "c2srt.check.nodes.probe"]
        first, second, third = hub.names
        broken = [sys.executable, "-c", "import sys; sys.exit('no such environment')"]
        self.started = [
            Processes([*command, *probe_words(first, hub, plan)], hub, [first]),
            Processes([*command, *probe_words(second, hub, plan)], hub, [second]),
            Processes(broken, hub, [third]),
        ]
        while second not in hub.connections:
            time.sleep(0.05)
        os.kill(self.started[1].process.pid, signal.SIGSTOP)


def test_whoever_does_not_answer_is_named_in_time_and_its_probe_is_gone(shards, capsys):
    began = time.monotonic()
    stopped: list[Stopped] = []

    def start(hub: Hub, plan: Plan) -> Stopped:
        stopped.append(Stopped(hub, plan))
        return stopped[0]

    told = Plan(plan(shards).places, seconds=20, parts=(MACHINE,))
    found = check_nodes(NAMES, told, start, shards.parent / "cluster.json")
    named = {finding.node: finding.says for finding in found if finding.state == FAULT}
    assert "no such environment" in named["n3"]
    assert "no answer within 2 s (machine)" in named["n2"]
    assert "n1" not in named or len(named) == 3, named  # of a machine that is too busy
    assert all(each.process.poll() is not None for each in stopped[0].started)
    assert time.monotonic() - began < 200


def test_a_stranger_is_no_node():
    """Who has no token, or another name, is hung up on, and the node's place stays free."""
    hub = Hub(["n1"])
    try:
        for hello in ({"name": "n1", "token": "0"}, {"name": "n9", "token": hub.token}, {}):
            with socket.create_connection(("127.0.0.1", hub.port), 5) as stranger:
                wire.send(stranger, hello)
                assert stranger.recv(1) == b""
        assert hub.connections == {}
        with socket.create_connection(("127.0.0.1", hub.port), 5) as node:
            wire.send(node, {"name": "n1", "token": hub.token})
            assert list(hub.wait_for_all(20)) == ["n1"]
    finally:
        hub.close()


def test_a_probe_ends_with_its_coordinator():
    hub = Hub(["n1"])
    command = [sys.executable, "-m", "c2srt.check.nodes.probe", *probe_words("n1", hub, Plan())]
    with subprocess.Popen(command, env=os.environ | {TOKEN: hub.token}) as process:
        assert hub.wait_for_all(60)
        hub.close()
        assert process.wait(60) == 0


def test_a_probe_that_cannot_connect_says_so():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, and nobody listens
        port = held.getsockname()[1]
        command = [sys.executable, "-m", "c2srt.check.nodes.probe", "n7", "127.0.0.1", f"{port}"]
        done = subprocess.run([*command, "3"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert done.stderr.startswith(f"n7 cannot reach the coordinator at 127.0.0.1:{port}: ")


# --- its parts


def test_the_folder_that_will_be_made_is_looked_for_above(tmp_path):
    assert places.nearest(tmp_path / "a/b/c") == tmp_path
    mine, other = places.Places("n1"), places.Places("n2")
    seen = mine.look({}, {"work": str(tmp_path / "a"), "out": str(tmp_path / "a/b")}, "x")
    assert seen["work"]["word"] == seen["out"]["word"] and seen["work"]["nearest"] == str(tmp_path)
    word = {"work": {"n1": seen["work"]["word"]}}
    assert other.find({"work": str(tmp_path)}, word, "x") == {"work": ["n1"]}
    mine.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["index.json", "size", "name"])
def test_a_folder_with_other_contents_has_another_fingerprint(shards, change):
    (shards / "train-000000.tar").write_bytes(bytes(10))
    before = places.seen(shards)["fingerprint"]
    assert places.seen(shards)["fingerprint"] == before
    if change == "index.json":
        (shards / "index.json").write_text("[]")
    elif change == "size":
        (shards / "train-000000.tar").write_bytes(bytes(11))
    else:
        (shards / "train-000000.tar").rename(shards / "train-000001.tar")
    assert places.seen(shards)["fingerprint"] != before


@pytest.fixture
def doors() -> Iterator[reach.Doors]:
    found = reach.Doors()
    yield found
    found.close()


def test_a_door_is_reached_and_a_shut_or_strange_one_is_not(doors):
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as shut:
        shut.bind(("127.0.0.1", 0))
        held, closed = taken.getsockname()[1], shut.getsockname()[1]
        opened = doors.listen("127.0.0.1", [held], "hello")
        assert opened["open"] == [] and list(opened["taken"]) == [str(held)]
        other = {"address": "127.0.0.1", "ports": [opened["any"], closed]}
        failed = reach.visit({"n2": other}, "hello")["failed"]
        assert list(failed["n2"]) == [str(closed)]
        failed = reach.visit({"n2": other}, "another")["failed"]
        assert failed["n2"][str(opened["any"])] == "another program answers"


def test_the_loaders_give_images_of_the_real_shards(tmp_path):
    make_shards(tmp_path, {"train": 30}, 10, make_vocabulary(10, 3))
    found = feeding.rate(str(tmp_path), 1, 2, 0.2, 300)
    assert found["images_s"] > 0 and found["processes"] >= 1
    assert feeding.rate(str(tmp_path / "none"), 0, 1, 0.2, 300) == {}
    (tmp_path / "vocabulary.json").unlink()
    assert "vocabulary.json does not exist" in feeding.rate(str(tmp_path), 0, 1, 0.2, 300)["fault"]


def test_the_folders_of_a_training_follow_from_its_keys():
    found = places_of(["data=miniature", "work=/w", "teacher=online", "data.root=/raw"])
    assert found["writes"] == {"work": "/w", "out": "/w/train"}
    assert found["reads"] == {
        "shards": "/w/shards",
        "text": "/w/text",
        "relations": "/w/relations/llm",
        "data.root": "/raw",
    }
    stored = places_of(["data=openimages", "work=/w", "shards=s3://bucket/shards"])
    assert stored["reads"]["shards"] == "s3://bucket/shards" and "data.root" not in stored["reads"]
    with pytest.raises(UserError, match="unknown key 'wrok'"):
        places_of(["wrok=/w"])


def test_the_words_of_the_verb():
    assert chosen([]) == PARTS and chosen(["reach", "clock"]) == ("clock", "reach")
    with pytest.raises(UserError, match="parts=isr is not one of versions, clock"):
        run(Config(what="cluster", parts=["isr"]))
    assert from_words(["cluster", "seconds=30", "parts=clock"]).seconds == 30
    for seconds in ("0", "soon"):
        with pytest.raises(UserError, match="seconds="):
            from_words(["cluster", f"seconds={seconds}"])
