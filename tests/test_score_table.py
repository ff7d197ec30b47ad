"""`c2srt evaluate` of a stranger's table of scores, keyed by image and MID, in any order."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from c2srt.cluster.cli import main
from c2srt.errors import UserError
from c2srt.evaluation import score_table
from c2srt.evaluation.score_table import read_scores
from c2srt.evaluation.split_labels import read_labels
from c2srt.shard_reader import ShardReader
from c2srt.shards import load_index
from c2srt.vocabulary import open_images_v4
from tests.evaluated import evaluate, results
from tests.shard_folder import make_shards, make_vocabulary

PHOTOS = Path(__file__).parents[2] / "shared/data/photos"
IMAGES, SEEN, UNSEEN = 23, 9, 4


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(folder of shards, ids, labels [N, C] read sample by sample, scores [N, C])."""
    folder = tmp_path_factory.mktemp("world") / "shards"
    vocabulary = make_vocabulary(SEEN, UNSEEN)
    index = make_shards(folder, {"train": 4, "test": IMAGES}, 10, vocabulary)
    ids, rows = [], []
    for shard in index.split("test"):
        reader = ShardReader(folder, shard)
        ids += reader.ids
        for found in reader.all_labels():
            positive, negative = set(found.positive), set(found.negative)
            rows.append([(m in positive) - (m in negative) for m in vocabulary.mids])
    scores = np.random.default_rng(0).normal(size=(IMAGES, SEEN + UNSEEN))
    return folder, ids, np.array(rows, np.int8), scores


def wide(world, seed: int = 1) -> pl.DataFrame:
    """Rows and columns in a random order."""
    _, ids, _, scores = world
    table = pl.DataFrame({"image": ids, **{f"/m/{c}": scores[:, c] for c in range(SEEN + UNSEEN)}})
    order = np.random.default_rng(seed).permutation(table.columns).tolist()
    return table.select(order).sample(fraction=1, shuffle=True, seed=seed)


def long(world, seed: int = 1) -> pl.DataFrame:
    table = wide(world).unpivot(index="image", variable_name="mid", value_name="score")
    return table.select("score", "mid", "image").sample(fraction=1, shuffle=True, seed=seed)


def save(table: pl.DataFrame, path: Path) -> Path:
    table.write_parquet(path) if path.suffix == ".parquet" else table.write_csv(path)
    return path


def of(world, table: Path, out: Path, *more: str) -> int:
    return evaluate(f"shards={world[0]}", f"scores={table}", f"out={out}", "topk=[2,3]", *more)


def same(found: dict, expected: dict) -> bool:
    keys = ("images", "zsl", "gzsl", "bootstrap", "warnings")
    return [found[key] for key in keys] == [expected[key] for key in keys]


@pytest.fixture(scope="module")
def from_arrays(world, tmp_path_factory):
    """The results of the same scores and labels as three arrays."""
    folder = tmp_path_factory.mktemp("arrays")
    arrays = {"scores": world[3], "labels": world[2], "seen": np.arange(SEEN + UNSEEN) < SEEN}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    given = [f"{name}={folder / name}.npy" for name in arrays]
    assert evaluate(*given, f"out={folder}/out", "topk=[2,3]") == 0
    return results(folder / "out")


@pytest.mark.parametrize("layout", [wide, long])
@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_a_table_in_any_order_is_evaluated_as_its_arrays(
    world, from_arrays, tmp_path, capsys, monkeypatch, layout, ending
):
    monkeypatch.setattr(score_table, "CELLS_AT_ONCE", 70)  # a parquet comes in several parts
    monkeypatch.setattr(score_table, "ROWS_AT_ONCE", 31)
    table = save(layout(world), tmp_path / f"t{ending}")
    assert of(world, table, tmp_path / "out") == 0
    found, said = results(tmp_path / "out"), capsys.readouterr()
    assert same(found, from_arrays) and found["checkpoint"] is None
    assert found["vocabulary"] == found["made_from"]["vocabulary"] == make_vocabulary(9, 4).hash
    assert f"loading what evaluates {table} …" in said.err and "mAP per_class" in said.out
    names = pl.read_csv(tmp_path / "out/per_category.csv")
    assert names["mid"].to_list() == [f"/m/{c}" for c in range(SEEN + UNSEEN)]
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == []
    assert of(world, table, tmp_path / "out") == 0 and "up to date" in capsys.readouterr().out
    save(layout(world, 2), table)  # another file, though with the same scores: measured again
    assert of(world, table, tmp_path / "out") == 0 and "up to date" not in capsys.readouterr().out
    assert same(results(tmp_path / "out"), from_arrays)


def test_single_precision_stays_single(world, tmp_path):
    table = wide(world).with_columns(pl.col(pl.Float64).cast(pl.Float32))
    vocabulary = make_vocabulary(SEEN, UNSEEN)
    got = read_scores(
        save(table, tmp_path / "t.parquet"), world[1], vocabulary, tmp_path / "scores.npy"
    )
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, world[3].astype(np.float32))
    as_pandas = pa.table(
        {
            "image": pa.array(long(world)["image"].to_list()).dictionary_encode(),
            "mid": pa.array(long(world)["mid"].to_list()).dictionary_encode(),
            "score": long(world)["score"].to_list(),
        }
    )
    pq.write_table(as_pandas, tmp_path / "u.parquet")
    got = read_scores(tmp_path / "u.parquet", world[1], vocabulary, tmp_path / "more.npy")
    np.testing.assert_array_equal(got, world[3])


def test_the_labels_of_a_split_are_those_of_its_samples(world, tmp_path):
    vocabulary, index = make_vocabulary(SEEN, UNSEEN), load_index(world[0])
    ids, labels = read_labels(index, vocabulary, "test", tmp_path / "labels.npy")
    assert ids == world[1] and set(np.unique(labels)) == {-1, 0, 1}
    np.testing.assert_array_equal(labels, world[2])


@pytest.mark.parametrize(
    "layout, change, sentence",
    [
        (
            wide,
            lambda t: t.filter(pl.col("image").rank() > 2),
            "lacks 26 scores: 2 of the 23 images have none and 0 not all, such as image",
        ),
        (
            long,
            lambda t: t[1:],
            "lacks 1 scores: 0 of the 23 images have none and 1 not all, such as image",
        ),
        (
            wide,
            lambda t: pl.concat([t, t[3:4].with_columns(image=pl.lit("nobody"))]),
            "has scores for images that are not in the labels, such as nobody: leave them out",
        ),
        (
            long,
            lambda t: pl.concat([t, t[3:4].with_columns(mid=pl.lit("/m/x"))]),
            "has scores for MIDs that are no categories of the shards, such as /m/x",
        ),
        (wide, lambda t: pl.concat([t, t[3:4]]), "has two rows of image "),
        (long, lambda t: pl.concat([t, t[3:4]]), "has two scores of image "),
        (wide, lambda t: t.drop("/m/2"), "has no column for 1 of the 13 categories"),
        (
            wide,
            lambda t: t.with_columns(mid=pl.lit(1.0)),
            "has columns for 1 MIDs that are no categories of the shards, such as mid",
        ),
        (wide, lambda t: t.rename({"image": "id"}), "has no column image: give the columns image"),
        (long, lambda t: t.rename({"score": "logit"}), "has no column for 13 of the 13 categories"),
        (
            wide,
            lambda t: t.with_columns(pl.lit(None, pl.Float64).alias("/m/2")),
            "has empty cells in column /m/2",
        ),
        (
            long,
            lambda t: t.with_columns(score=pl.lit(float("nan"))),
            "is nan: scores must be finite",
        ),
        (
            wide,
            lambda t: t.with_columns(pl.lit(float("inf")).alias("/m/4")),
            "for /m/4 is inf: scores must be finite",
        ),
    ],
)
@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_other_tables_get_one_sentence(world, tmp_path, capsys, layout, change, sentence, ending):
    table = save(change(layout(world)), tmp_path / f"t{ending}")
    assert of(world, table, tmp_path / "out") == 2
    message = capsys.readouterr().err.splitlines()
    assert sentence in message[-1] and str(table) in message[-1] and "Traceback" not in message
    assert not (tmp_path / "out/results.json").exists()


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"", "cannot be read as a table"),
        (b"image,mid,score\na,/m/0,good\n", "cannot be read as a table"),
        (b"image,image,score\na,/m/0,1\n", "has two columns image"),
        (b"PAR1 and nothing else", "cannot be read as a table"),
        (b"photo,mid,score\na,/m/0,1\n", "has no column image"),
        (b"image,mid,score\n,/m/0,1\n", "has empty cells in column image"),
        (b"image,mid,score\n", "lacks 299 scores: 23 of the 23 images have none"),
    ],
)
def test_what_is_no_table_gets_one_sentence(world, tmp_path, content, sentence):
    (tmp_path / "t.csv").write_bytes(content)
    vocabulary = make_vocabulary(SEEN, UNSEEN)
    with pytest.raises(UserError, match=sentence):
        read_scores(tmp_path / "t.csv", world[1], vocabulary, tmp_path / "scores.npy")


def test_text_where_numbers_belong_is_named(world, tmp_path):
    table = wide(world).with_columns(pl.col("/m/3").cast(pl.String))
    with pytest.raises(UserError, match=r"has (large_)?string as column /m/3: give numbers"):
        read_scores(
            save(table, tmp_path / "t.parquet"),
            world[1],
            make_vocabulary(SEEN, UNSEEN),
            tmp_path / "scores.npy",
        )


@pytest.mark.parametrize(
    "given, sentence",
    [
        (["scores=t.csv", "labels=L.npy"], "is a table, whose labels are those of the shards'"),
        (["scores=S.npy"], "scores, labels and seen are needed, all three, or scores alone as a"),
        (["scores=/nowhere.parquet"], "/nowhere.parquet does not exist: name a .parquet or .csv"),
    ],
)
def test_what_does_not_go_together_gets_one_sentence(world, tmp_path, capsys, given, sentence):
    assert evaluate(f"shards={world[0]}", *given, f"out={tmp_path}/out", "topk=[2]") == 2
    assert sentence in capsys.readouterr().err


def test_the_photographs_with_anybody_s_scores(tmp_path):
    """93 test photographs with Open Images' labels: a table of all 7,586 categories in any order
    gives what the arrays give.
    """
    if not PHOTOS.is_dir():
        pytest.skip("needs shared/data/photos (389 photographs with Open Images' labels)")
    data = ["data=openimages", f"data.root={PHOTOS}", f"work={tmp_path}"]
    assert main(["shard", *data, "splits=[test]"]) == 0
    vocabulary, index = open_images_v4(), load_index(tmp_path / "shards")
    ids, labels = read_labels(index, vocabulary, "test", tmp_path / "labels.npy")
    random = np.random.default_rng(0)
    scores = random.normal(size=labels.shape).astype(np.float32) + labels
    order = random.permutation(len(vocabulary))
    columns = {vocabulary.mids[c]: scores[:, c] for c in order}
    table = pl.DataFrame({"image": ids, **columns}).sample(fraction=1, shuffle=True, seed=0)
    table.write_parquet(tmp_path / "scores.parquet")
    table.write_csv(tmp_path / "scores.csv")
    for ending in ("parquet", "csv"):
        given = [f"scores={tmp_path}/scores.{ending}", f"out={tmp_path}/{ending}"]
        assert main(["evaluate", *data, *given]) == 0
    np.save(tmp_path / "scores.npy", scores)
    np.save(tmp_path / "seen.npy", np.arange(7586) < 7186)
    arrays = [f"{name}={tmp_path}/{name}.npy" for name in ("scores", "labels", "seen")]
    assert main(["evaluate", *arrays, "topk=[10,20]", f"out={tmp_path}/arrays"]) == 0
    found, expected = results(tmp_path / "parquet"), results(tmp_path / "arrays")
    assert found["images"] == len(ids) == 93 and same(found, expected)
    assert same(results(tmp_path / "csv"), expected)
    assert found["zsl"]["mAP"]["per_class"] > 0.9 and found["published"]["gzsl"] == 8.68
