"""`c2srt relations report`: figures against hand counts, bad input, pictures, and the page in a
real browser where there is one.
"""

import json
import shutil
import subprocess

import numpy as np
import polars as pl
import pytest
from PIL import Image

from c2srt.cluster.cli import main
from c2srt.opened import read_json
from c2srt.relations.compare import Graph, describe, overlap
from c2srt.relations.pictures import out_degree_figure
from c2srt.relations.shortlist import coverage, merge, shortlists, words_of
from c2srt.vocabulary import Vocabulary

NAMES = ("Ape", "Bat", "</script>$x$", "Dog", "Unicorn 寿司")
FIVE = Vocabulary(("/m/a", "/m/b", "/m/c", "/m/d", "/m/u"), NAMES, 4)
LINES = {
    "/m/a": [("/m/b", "is-a", "high"), ("/m/c", "functional", "low")],
    "/m/b": [("/m/a", "is-a", "high")],
    "/m/c": [("/m/a", "part-whole", "medium"), ("/m/b", "is-a", "low")],
    "/m/u": [("/m/b", "is-a", "high")],
}


@pytest.fixture
def graphs(tmp_path):
    FIVE.save(tmp_path / "shards")
    (tmp_path / "mined.jsonl").write_text(
        "\n".join(
            json.dumps(
                {
                    "mid": target,
                    "related": [
                        {"mid": mid, "type": kind, "strength": strength}
                        for mid, kind, strength in related
                    ],
                }
            )
            for target, related in LINES.items()
        )
    )
    for arguments in (
        [f"relations_file={tmp_path}/mined.jsonl", "neighbours=3"],
        ["graph=random", "neighbours=2"],
    ):
        assert main(["relations", f"work={tmp_path}", *arguments]) == 0
    return tmp_path


def report(folder, *arguments: str) -> int:
    return main(["relations", "report", f"work={folder}", *arguments])


def test_the_figures_are_those_counted_by_hand(graphs, capsys):
    assert report(graphs) == 0
    found = read_json(graphs / "relations/report/report.json", "")
    assert found["neighbours"] == 2 and list(found["graphs"]) == ["mined", "random"]
    mined = found["graphs"]["mined"]
    assert mined["edges"] == 6 and mined["coverage"] == {"all": 0.8, "seen": 0.75, "unseen": 1.0}
    assert mined["without_neighbours"] == ["Dog"] == mined["unreached"]
    assert mined["hubs"] == [
        {"name": "Bat", "mid": "/m/b", "listeners": 3},
        {"name": "Ape", "mid": "/m/a", "listeners": 2},
        {"name": "</script>$x$", "mid": "/m/c", "listeners": 1},
    ]
    assert mined["reciprocal"] == pytest.approx(4 / 5) and mined["types"] == {
        "is-a": 4,
        "functional": 1,
        "part-whole": 1,
    }
    assert (
        mined["listeners"]["mean"] == 1.5
        and mined["listeners"]["quantile_1"] == 3
        and mined["edges_from_top_percent"] == 0.5
    )
    assert found["overlap"]["mined"]["mined"] == 1 and found["shortlist"] is None
    text = (graphs / "relations/report/report.md").read_text()
    assert "| categories with neighbours | 80.0 % | 100.0 % |" in text and "Hubs: Bat (3)" in text
    assert (
        "mined: 1.2 neighbours, 80.0 % covered, 80.0 % reciprocal, greatest hub Bat, 1 unreached"
        in capsys.readouterr().out
    )


def test_a_graph_that_an_oracle_wrote_is_called_so_wherever_it_is_shown(graphs, capsys):
    lines = (graphs / "mined.jsonl").read_text(encoding="utf-8")
    (graphs / "oracle.jsonl").write_text(
        json.dumps({"provenance": {"oracle": True}}) + "\n" + lines, encoding="utf-8"
    )
    assert (
        main(
            ["relations", f"work={graphs}", f"relations_file={graphs}/oracle.jsonl", "neighbours=3"]
        )
        == 0
    )
    assert "mined (oracle graph), 5 categories" in capsys.readouterr().out
    assert report(graphs) == 0
    assert "mined (oracle graph): 1.2 neighbours" in capsys.readouterr().out
    text = (graphs / "relations/report/report.md").read_text(encoding="utf-8")
    assert "| mined (oracle graph) | random |" in text and "## mined (oracle graph)" in text
    assert '"kinds":["mined (oracle graph)","random"]' in (
        graphs / "relations/report/lookup.html"
    ).read_text(encoding="utf-8")


def test_overlap_and_reciprocity_are_the_literal_ones():
    random = np.random.default_rng(0)
    one, other = (np.stack([random.permutation(12)[:4] for _ in range(15)]) for _ in range(2))
    one[random.random(one.shape) < 0.3] = -1
    one[3] = -1
    shares = [
        len(set(a) & set(b) - {-1}) / len(set(a) - {-1})
        for a, b in zip(one.tolist(), other.tolist(), strict=True)
        if set(a) != {-1}
    ]
    assert overlap(one, other) == pytest.approx(np.mean(shares))
    pairs = {(row, column) for row in range(12) for column in one[row].tolist() if column >= 0}
    mids = tuple(f"/m/{number}" for number in range(15))
    facts = describe(Graph("x", one, pl.DataFrame({"type": [""]}), {}), Vocabulary(mids, mids, 12))
    assert facts["reciprocal"] == pytest.approx(np.mean([(b, a) in pairs for a, b in pairs]))


def test_pictures_and_page_are_written_for_any_name(graphs):
    assert report(graphs, "draw=[/m/c,'Unicorn 寿司']") == 0
    folder = graphs / "relations/report"
    pictures = sorted(path.name for path in folder.glob("*.png"))
    assert pictures == [
        "figure10-script-x-m-c.png",
        "figure10-unicorn-寿司-m-u.png",
        "listeners.png",
    ]
    for name in pictures:
        picture = Image.open(folder / name).convert("RGB")
        pixels = np.asarray(picture).reshape(-1, 3).astype(int)
        red = (pixels[:, 0] > 180) & (pixels[:, 1] < 80)  # edges into the category
        assert len(picture.getcolors(1 << 24)) > 20 and (
            red.sum() > 50 or name == "listeners.png"
        ), name
    text = (folder / "lookup.html").read_text()
    assert text.count("</script>") == 1
    data = json.loads(text.split("const data = ")[1].split(";\nconst get")[0])
    assert data["names"] == list(NAMES) and data["types"] == ["functional", "is-a", "part-whole"]
    assert (
        data["graphs"]["mined"][0] == [[1, 3.0, 1], [2, 1.0, 0]]
        and data["graphs"]["mined"][3] == []
    )


@pytest.mark.parametrize("table", [[[1, 2], [0, -1], [0, 1], [-1, -1], [1, -1]], [[-1, -1]] * 5])
def test_no_number_of_listeners_is_negative(table):
    """Neither on the axis nor in the lines, with a graph that has no edges too."""
    graph = Graph("mined", np.array(table), pl.DataFrame(), {})
    (axis,) = out_degree_figure([graph, graph], 4).axes
    axis.figure.canvas.draw()
    heard = sorted(
        np.bincount(
            np.array([column for row in table for column in row if column >= 0], int), minlength=4
        ),
        reverse=True,
    )
    assert [line.get_ydata().tolist() for line in axis.lines] == [heard, heard]
    assert axis.get_ylim()[0] == 0 and axis.get_ylim()[1] > max(heard) and min(axis.get_xlim()) == 1
    low, high = axis.get_ylim()
    assert all(
        "−" not in tick.label1.get_text().replace("10^{-", "")
        for tick in axis.yaxis.get_major_ticks()
        if low <= tick.get_loc() <= high
    )


def test_the_page_shows_a_category_in_a_browser(graphs):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs a browser: chromium or google-chrome")
    assert report(graphs) == 0
    address = f"file://{graphs}/relations/report/lookup.html#%2Fm%2Fc"
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={graphs}/profile",
        "--virtual-time-budget=3000",
        "--dump-dom",
        address,
    ]
    shown = (
        subprocess.run(command, capture_output=True, text=True, timeout=120)
        .stdout.split('<div id="category">')[1]
        .split("<script>")[0]
    )
    assert (
        "&lt;/script&gt;$x$" in shown
        and "part-whole" in shown
        and shown.index(">Ape<") < shown.index(">Bat<")
    )
    assert "heard by 1: " in shown


def test_bad_input_is_one_sentence(graphs, capsys):
    for arguments, sentence in (
        (["graphs=[mined,magic]"], "magic is not a kind"),
        (["neighbours=0"], "neighbours=0 must be at least 1"),
        (["graphs=[similarity]"], "relations/similarity/relations.json does not exist"),
        (["neighbours=3"], "random keeps 2 neighbours a category, but 3 are asked for"),
        (["folder=/nowhere"], "/nowhere has no relation graph"),
        (["draw=[Zebra]"], "no category 'Zebra'"),
    ):
        assert report(graphs, *arguments) == 2
        assert sentence in capsys.readouterr().err
    (graphs / "relations/mined/edges.parquet").write_bytes(b"")
    assert report(graphs) == 2
    assert (
        "mined/edges.parquet is absent or not what relations.json describes"
        in capsys.readouterr().err
    )
    assert (
        main(
            ["relations", f"work={graphs}", f"relations_file={graphs}/mined.jsonl", "neighbours=3"]
        )
        == 0
        == report(graphs)
    )


def test_shortlists_take_turns_and_their_coverage_is_counted():
    assert merge([np.array([5, 3, 1]), np.array([4, 5, 2, 0])], 5).tolist() == [5, 4, 3, 1, 2]
    assert merge([np.array([], np.int64)], 3).tolist() == [] and merge(
        [np.array([2, -1])], 3
    ).tolist() == [2]
    lists = shortlists(
        Vocabulary(tuple("abcdef"), ("Red car", "Car", "Sea", "Cars of old", "Sky", "Blue"), 5),
        [0, 2, 5],
        3,
    )
    assert lists[0][:2].tolist() == [1, 3] and lists[0][2] in (
        2,
        4,
    )  # two share a word, the third is drawn
    assert all(
        len(set(found)) == 3 and row not in found and max(found) < 5
        for row, found in zip([0, 2, 5], map(list, lists), strict=True)
    )
    assert words_of("Cherry-Blossoms of the Cities'") == {"cherry", "blossom", "of", "the", "city"}
    from c2srt.relations.answers import parse_answers

    answers = parse_answers(
        b'{"mid": "/m/a", "related": [{"mid": "/m/b", "strength": 3}, {"mid": "/m/d", "strength":'
        b' 1}, {"mid": "/m/u", "strength": 1}, {"mid": "/m/a", "strength": 1}]}',
        "x",
    )
    assert coverage([np.array([3, 2, 1])], [0], FIVE, answers, (1, 2, 3)) == {
        1: 0.5,
        2: 0.5,
        3: 1.0,
    }
