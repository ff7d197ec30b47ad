"""The neighbour table: every kind of graph, provenance, and new words."""

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file
from torch.nn.functional import normalize

from c2srt.cluster.cli import main
from c2srt.errors import UserError
from c2srt.files import sha256_of_file, write_json
from c2srt.opened import read_json
from c2srt.relations.answers import llm_neighbours, parse_answers, shipped_answers
from c2srt.relations.baselines import random_neighbours, similar_neighbours, text_neighbours
from c2srt.relations.cooccurrence import count_labels
from c2srt.relations.table import load_relations
from c2srt.shard_reader import ShardReader
from c2srt.shards import load_index
from c2srt.vocabulary import Vocabulary, open_images_v4
from tests.shard_folder import make_shards, make_vocabulary

FIVE = Vocabulary(
    ("/m/a", "/m/b", "/m/c", "/m/d", "/m/u"), ("Ape", "Bat", "Spring", "Spring", "Unicorn"), 4
)


def line(mid: str, *related: tuple[str, str]) -> str:
    answers = [
        {"mid": other, "name": other, "type": "is-a", "strength": strength}
        for other, strength in related
    ]
    return json.dumps({"mid": mid, "name": mid, "split": "seen", "related": answers})


def relations(*arguments: str, folder: Path) -> int:
    return main(["relations", f"work={folder}", *arguments])


@pytest.fixture
def five(tmp_path):
    FIVE.save(tmp_path / "shards")
    return tmp_path


def test_strength_decides_and_equal_strengths_keep_the_order_of_the_file():
    answers = parse_answers(
        line("/m/a", ("/m/b", "low"), ("/m/d", "Medium"), ("/m/c", "HIGH")).encode()
        + b"\n\n"
        + line("/m/u", ("/m/d", "high"), ("/m/b", "high"), ("/m/a", "high")).encode(),
        "x",
    )
    neighbours, counts = llm_neighbours(answers, FIVE, 3)
    table = neighbours.table
    assert table.tolist() == [[2, 3, 1], [-1] * 3, [-1] * 3, [-1] * 3, [3, 1, 0]]
    assert table.dtype == np.int32 and counts["categories without an answer"] == 3


def test_unusable_relations_are_dropped_counted_and_printed(five, capsys):
    text = [
        line(
            "/m/a",
            ("/m/a", "high"),
            ("/m/u", "high"),
            ("/m/x", "high"),
            ("/m/c", "medium"),
            ("/m/c", "low"),
            ("/m/b", "low"),
        ),
        line("/m/nowhere", ("/m/a", "high")),
        line("/m/c", ("/m/d", "high")),
    ]
    (five / "mined.jsonl").write_text("\n".join(text))
    assert relations(f"relations_file={five}/mined.jsonl", "neighbours=2", folder=five) == 0
    assert load_relations(five / "relations/mined", FIVE, 2).tolist() == [
        [2, 1],
        [-1, -1],
        [3, -1],
        [-1, -1],
        [-1, -1],
    ]
    counts = read_json(five / "relations/mined/relations.json", "")["counts"]
    assert counts == {
        "answers for categories outside the vocabulary": 1,
        "categories without an answer": 3,
        "categories related to themselves": 1,
        "related categories that are unseen": 1,
        "related categories outside the vocabulary": 1,
        "related categories named twice": 1,
    }
    printed = capsys.readouterr().out
    assert all(f"dropped, {what}: 1" in printed for what in counts if "without" not in what)
    assert "categories without an answer: 3" in printed and "3 without any" in printed


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"mid": ', "line 1: not a relations line, not valid JSON"),
        (line("/m/a") + "\n[1, 2]", "line 2: not a relations line"),
        (line("/m/a", ("/m/b", "strong")), "line 1: not a relations line"),
        (json.dumps({"mid": "/m/a"}), "related"),
        (line("/m/a") + "\n" + line("/m/a"), "line 2: category /m/a was answered before"),
    ],
)
def test_a_bad_relations_file_names_the_line(five, capsys, content, sentence):
    (five / "mined.jsonl").write_text(content)
    assert relations(f"relations_file={five}/mined.jsonl", folder=five) == 2
    assert sentence in capsys.readouterr().err
    assert not (five / "relations").exists()


def test_a_graph_that_covers_far_less_replaces_none(five, capsys):
    whole = [line(mid, ("/m/b" if mid != "/m/b" else "/m/a", "high")) for mid in FIVE.mids]
    for name, lines in (
        ("whole", whole),
        ("half", whole[:3]),
        ("trial", whole[:1]),
        ("empty", [line("/m/a")]),
    ):
        (five / f"{name}.jsonl").write_text("\n".join(lines))
    folder = five / "relations/mined"
    assert relations(f"relations_file={five}/whole.jsonl", folder=five) == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name, covered in (("trial", 1), ("empty", 0)):
        assert relations(f"relations_file={five}/{name}.jsonl", folder=five) == 2
        printed = capsys.readouterr().err
        assert (
            f"neighbours.npy has neighbours for 5 of 5 categories, {five}/{name}.jsonl would leave"
            f" {covered} of 5" in printed
        )
        assert "mine the others first" in printed and len(printed.strip().splitlines()) == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert relations(f"relations_file={five}/half.jsonl", folder=five) == 0
    assert relations("graph=none", f"out={folder}", folder=five) == 2
    assert relations(f"relations_file={five}/trial.jsonl", f"out={five}/trial", folder=five) == 0
    (folder / "neighbours.npy").unlink()
    assert relations(f"relations_file={five}/trial.jsonl", folder=five) == 0


def test_a_graph_of_another_data_set_replaces_none(five, capsys):
    """A relations file that knows none of the categories, as where data=… was left out."""
    (five / "raw").mkdir()
    (five / "raw/relations.jsonl").write_text(
        "\n".join(line(mid, ("/m/b", "high")) for mid in ("/m/a", "/m/c", "/m/u"))
    )
    (five / "other.jsonl").write_text(line("/m/0dog", ("/m/0cat", "high")))
    assert relations(folder=five) == 0
    assert relations(f"relations_file={five}/other.jsonl", folder=five) == 2
    assert (
        f"other.jsonl answers for none of the 5 categories of {five}/shards: give the data set"
        in capsys.readouterr().err
    )
    assert not (five / "relations/mined").exists()
    assert relations("graph=random", f"relations_file={five}/other.jsonl", folder=five) == 2
    assert "graph=random reads no relations_file" in capsys.readouterr().err
    assert relations("graph=mined", folder=five) == 2
    assert (
        "relations/mined/relations.jsonl cannot be read: there is none; `c2srt relations mine"
        f" work={five} graph=mined` makes one" in capsys.readouterr().err
    )


def test_the_relations_of_the_raw_folder_are_found_and_a_missing_or_broken_file_is_refused(
    five, capsys
):
    assert relations(folder=five) == 2
    assert "no shipped relations fit this vocabulary" in capsys.readouterr().err
    (five / "raw").mkdir()
    first = json.dumps({"provenance": {"model": "m", "prompt": 1}})
    (five / "raw/relations.jsonl").write_text(first + "\n" + line("/m/u", ("/m/a", "high")))
    assert relations(folder=five) == 0
    provenance = read_json(five / "relations/llm/relations.json", "")
    assert provenance["source"].endswith("raw/relations.jsonl") and (
        provenance["model"],
        provenance["prompt"],
    ) == ("m", 1)
    assert load_relations(five / "relations/llm", FIVE, 1).squeeze(1).tolist() == [
        -1,
        -1,
        -1,
        -1,
        0,
    ]
    (five / "cut.jsonl.gz").write_bytes(gzip.compress(line("/m/a").encode())[:-9])
    for name in ("cut.jsonl.gz", "absent.jsonl"):
        assert relations(f"relations_file={five}/{name}", folder=five) == 2
        assert f"{name} cannot be read" in capsys.readouterr().err


def test_the_same_command_again_does_nothing_and_any_change_rebuilds(five, capsys):
    table = five / "relations/random/neighbours.npy"
    assert relations("graph=random", folder=five) == 0
    before, bytes_before = table.stat().st_mtime_ns, table.read_bytes()
    assert relations("graph=random", folder=five) == 0
    assert "up to date" in capsys.readouterr().out and table.stat().st_mtime_ns == before
    assert relations("graph=random", "seed=1", folder=five) == 0
    assert table.read_bytes() != bytes_before
    assert relations("graph=random", folder=five) == 0
    assert table.read_bytes() == bytes_before
    table.write_bytes(bytes_before[:-4])
    with pytest.raises(
        UserError, match="neighbours.npy is absent or not what relations.json describes"
    ):
        load_relations(table.parent, FIVE, 2)
    assert relations("graph=random", folder=five) == 0
    assert table.read_bytes() == bytes_before


def test_a_graph_of_another_vocabulary_or_with_too_few_neighbours_is_refused(five):
    assert relations("graph=none", "neighbours=3", folder=five) == 0
    folder = five / "relations/none"
    assert (load_relations(folder, FIVE, 3) == -1).all() and load_relations(
        folder, FIVE, 2
    ).shape == (5, 2)
    with pytest.raises(
        UserError,
        match="keeps 3 neighbours a category, but 4 are asked for: .*graph=none neighbours=4`",
    ):
        load_relations(folder, FIVE, 4)
    renamed = Vocabulary(FIVE.mids, ("Ape", "Bat", "Spring", "Summer", "Unicorn"), 4)
    with pytest.raises(
        UserError, match="relations/none was made for vocabulary .* `c2srt relations graph=none"
    ):
        load_relations(folder, renamed, 2)
    with pytest.raises(
        UserError, match="relations.json does not exist: make it with `c2srt relations`"
    ):
        load_relations(five / "nowhere", FIVE, 2)
    write_json(folder / "relations.json", {"made": "by hand"})
    with pytest.raises(UserError, match=r"is not what it should be \(made_from: field required\)"):
        load_relations(folder, FIVE, 2)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(0, 4), st.integers(1, 10), st.integers(0, 3))
def test_random_rows_are_distinct_seen_and_never_oneself(seen, unseen, k, seed):
    vocabulary = Vocabulary(
        tuple(f"/m/{i}" for i in range(seen + unseen)), ("x",) * (seen + unseen), seen
    )
    table = random_neighbours(vocabulary, k, seed)
    for row, neighbours in enumerate(table.tolist()):
        kept = [column for column in neighbours if column >= 0]
        others = seen - (row < seen)
        assert (
            len(kept) == len(set(kept)) == min(k, others)
            and row not in kept
            and max(kept, default=0) < seen
        )
        assert neighbours[len(kept) :] == [-1] * (k - len(kept))


def test_a_random_row_depends_on_no_other_category_and_covers_all_sources():
    mids = tuple(f"/m/{i}" for i in range(60))
    small, large = (
        Vocabulary(mids[:52], mids[:52], 50),
        Vocabulary(mids[:50] + mids[53:] + mids[50:53], mids, 50),
    )
    one, other = random_neighbours(small, 4, 7), random_neighbours(large, 4, 7)
    assert (one[:50] == other[:50]).all()
    assert (one[50:52] == other[[57, 58]]).all()
    assert (random_neighbours(large, 4, 8) != other).any()
    assert set(other.flatten().tolist()) == set(range(50))


def test_similarity_is_the_literal_ranking_with_ties_to_the_lower_column():
    features = normalize(torch.randn(37, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    features[11] = features[5] = features[20]  # three categories of one name
    table = text_neighbours(features, 30, 6)
    cosine = features.double() @ features[:30].double().T
    for row in range(37):
        others = [
            (-round(cosine[row, column].item(), 6), column) for column in range(30) if column != row
        ]
        assert table[row].tolist() == [column for _, column in sorted(others)[:6]]
    assert table[20, :2].tolist() == [5, 11] and table[5, :2].tolist() == [11, 20]


def test_similarity_in_chunks_is_the_same_and_few_seen_are_padded(monkeypatch):
    features = normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(1)), dim=-1)
    whole = text_neighbours(features, 3, 5)
    monkeypatch.setattr("c2srt.relations.baselines.rows_per_chunk", lambda columns: 2)
    assert (text_neighbours(features, 3, 5) == whole).all()
    assert (whole[:3, 2:] == -1).all() and (whole[:3, :2] >= 0).all()
    assert (whole[3:, 3:] == -1).all() and (whole[3:, :3] >= 0).all()


def test_similarity_reads_the_text_features_and_follows_them(five):
    def write_text(seed: int) -> torch.Tensor:
        features = normalize(
            torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)), dim=-1
        )
        (five / "text").mkdir(exist_ok=True)
        save_file({"features": features}, five / "text/text.safetensors")
        write_json(
            five / "text/text.json",
            {
                "made_from": {"vocabulary": FIVE.hash, "clip": "c", "templates": ["{}"]},
                "files": {"text.safetensors": sha256_of_file(five / "text/text.safetensors")},
            },
        )
        return features

    assert relations("graph=similarity", folder=five) == 2
    for seed in (0, 1):
        features = write_text(seed)
        assert relations("graph=similarity", folder=five) == 0
        expected = text_neighbours(features, 4, 8)
        assert load_relations(five / "relations/similarity", FIVE, 8).tolist() == expected.tolist()
        assert (expected >= 0).sum(1).tolist() == [3, 3, 3, 3, 4]


def label_rows(folder: Path, positives: list[list[str]]) -> None:
    """`inputs/train.parquet` as `c2srt shard` leaves it."""
    (folder / "shards/inputs").mkdir(parents=True, exist_ok=True)
    ids = [f"{number:016x}" for number in range(len(positives))]
    frame = pl.DataFrame(
        {"id": ids, "positive": positives}, schema={"id": pl.String, "positive": pl.List(pl.String)}
    )
    frame.write_parquet(folder / "shards/inputs/train.parquet")


def literal_counts(positives: list[list[str]], vocabulary: Vocabulary) -> tuple[dict, Counter]:
    """Pairs and single counts, an image at a time."""
    pairs, alone = Counter(), Counter()
    for image in positives:
        columns = {
            vocabulary.index[mid]
            for mid in image
            if vocabulary.index.get(mid, 99) < vocabulary.seen_count
        }
        alone.update(columns)
        pairs.update((one, other) for one in columns for other in columns if one != other)
    return pairs, alone


def test_cooccurrence_is_the_share_of_the_targets_images_with_ties_to_the_lower_column(five):
    label_rows(
        five,
        [
            ["/m/a", "/m/b"],
            ["/m/b", "/m/a", "/m/d"],
            ["/m/a", "/m/c", "/m/u"],
            ["/m/a"],
            [],
            ["/m/nowhere", "/m/u"],
        ],
    )
    assert relations("graph=cooccurrence", "neighbours=3", folder=five) == 0
    folder = five / "relations/cooccurrence"
    assert load_relations(folder, FIVE, 3).tolist() == [
        [1, 2, 3],
        [0, 3, -1],
        [0, -1, -1],
        [0, 1, -1],
        [-1, -1, -1],
    ]
    edges = pl.read_parquet(folder / "edges.parquet")
    assert edges.filter(pl.col("target") == "/m/a")["strength"].to_list() == pytest.approx(
        [1 / 2, 1 / 4, 1 / 4]
    )
    assert edges.filter(pl.col("target") == "/m/b")["strength"].to_list() == pytest.approx(
        [1, 1 / 2]
    )


def test_cooccurrence_in_small_blocks_is_the_literal_count(tmp_path, monkeypatch):
    random, vocabulary = np.random.default_rng(0), make_vocabulary(12, 3)
    positives = [
        [vocabulary.mids[column] for column in random.permutation(15)[: random.integers(0, 12)]]
        for _ in range(300)
    ]
    label_rows(tmp_path, positives)
    monkeypatch.setattr("c2srt.relations.cooccurrence.IMAGES", 17)
    monkeypatch.setattr("c2srt.relations.cooccurrence.PAIRS", 50)
    counts = count_labels(tmp_path / "shards", vocabulary)
    pairs, alone = literal_counts(positives, vocabulary)
    assert counts.images == 300 and counts.alone.tolist() == [alone[column] for column in range(12)]
    assert all(
        counts.together[one, other] == pairs[one, other] for one in range(12) for other in range(12)
    )


def test_cooccurrence_of_shards_without_their_inputs_is_read_from_the_tars(tmp_path, capsys):
    vocabulary = make_vocabulary()
    make_shards(tmp_path / "shards", {"train": 25, "validation": 5}, 10, vocabulary)
    from_tars = count_labels(tmp_path / "shards", vocabulary)
    index = load_index(tmp_path / "shards")
    readers = [ShardReader(index.folder, shard) for shard in index.split("train")]
    positives = [
        json.loads(reader.json(sample))["positive"]
        for reader in readers
        for sample in range(len(reader))
    ]
    pairs, alone = literal_counts(positives, vocabulary)
    assert from_tars.images == 25 and from_tars.alone.tolist() == [
        alone[column] for column in range(6)
    ]
    assert all(from_tars.together[pair] == count for pair, count in pairs.items())
    assert (
        relations("graph=cooccurrence", folder=tmp_path)
        == 0
        == relations("graph=cooccurrence", folder=tmp_path)
    )
    assert "up to date" in capsys.readouterr().out


def test_cooccurrence_without_labels_or_with_broken_ones_is_refused(five, capsys):
    assert relations("graph=cooccurrence", folder=five) == 2
    assert (
        "shards/index.json does not exist: make it with `c2srt shard work="
        in capsys.readouterr().err
    )
    label_rows(five, [["/m/a"]])
    path = five / "shards/inputs/train.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert relations("graph=cooccurrence", folder=five) == 2
    assert "inputs/train.parquet cannot be read" in capsys.readouterr().err


def test_numbers_as_strengths_are_means_and_relations_build_is_the_same_verb(five):
    answers = [
        {"mid": mid, "type": kind, "strength": value}
        for mid, kind, value in (
            ("/m/b", "is-a", 1.5),
            ("/m/c", "functional", 2.5),
            ("/m/d", "is-a", "medium"),
        )
    ]
    (five / "mined.jsonl").write_text(json.dumps({"mid": "/m/a", "related": answers}))
    assert (
        main(
            [
                "relations",
                "build",
                f"work={five}",
                f"relations_file={five}/mined.jsonl",
                "neighbours=2",
            ]
        )
        == 0
    )
    assert load_relations(five / "relations/mined", FIVE, 2)[0].tolist() == [2, 3]
    edges = pl.read_parquet(five / "relations/mined/edges.parquet")
    assert edges.rows() == [
        ("/m/a", "/m/c", 0, 2.5, "functional"),
        ("/m/a", "/m/d", 1, 2.0, "is-a"),
    ]


@pytest.mark.parametrize("strength", [0, -1, 3.5, None, "NaN", float("nan")])
def test_a_strength_outside_its_range_is_refused(strength):
    row = {"mid": "/m/a", "related": [{"mid": "/m/b", "type": "is-a", "strength": strength}]}
    with pytest.raises(UserError, match="line 1: not a relations line"):
        parse_answers(json.dumps(row).encode(), "x")


def test_new_words_get_the_most_similar_seen_categories():
    seen = normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(2)), dim=-1)
    assert similar_neighbours(seen[[3, 1]], seen, 2)[:, 0].tolist() == [3, 1]
    names = ["Ape", "Bat", "Cat", "Dog", "Eel", "Fox"]
    best = similar_neighbours(seen[[3, 1]], seen, 7, ["dog", "Bats"], names)
    assert 3 not in best[0] and best[1, 0] == 1
    assert (
        best.shape == (2, 7)
        and (best[0, 5:] == -1).all()
        and best[1, 6] == -1
        and (best[1, :6] >= 0).all()
    )
    assert similar_neighbours(seen[:0], seen, 3).shape == (0, 3)


def test_a_part_of_open_images_takes_its_relations_from_the_shipped_file(tmp_path):
    whole = open_images_v4()
    part = Vocabulary(
        whole.mids[:500] + whole.mids[7186:7190], whole.names[:500] + whole.names[7186:7190], 500
    )
    part.save(tmp_path / "shards")
    assert main(["relations", "data=openimages", f"work={tmp_path}"]) == 0
    table = load_relations(tmp_path / "relations/llm", part, 4)
    related = {
        answer.key
        for answer in shipped_answers("relations_openimages_v4.jsonl.gz").related[part.mids[3]]
    }
    assert {part.mids[column] for column in table[3].tolist() if column >= 0} <= related
    assert (
        read_json(tmp_path / "relations/llm/relations.json", "")["counts"][
            "related categories outside the vocabulary"
        ]
        > 0
    )
