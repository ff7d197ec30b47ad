"""The miniature: its world, pictures, captions, labels, relations, raw layout; its CLIP; the table
and the picture.
"""

import csv
import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from c2srt.backbone.clip import load_clip
from c2srt.backbone.config import ClipConfig
from c2srt.backbone.tower import normalise
from c2srt.demo import measure, picture, pretrain, run, table
from c2srt.demo.captions import captioned_chunk, captioned_picture
from c2srt.demo.config import Config
from c2srt.demo.draw import SIZE, random_picture, render
from c2srt.demo.knowledge import relation_lines
from c2srt.demo.labels import truth, verified
from c2srt.demo.raw import IMAGE_FILES, raw_key, write_raw
from c2srt.demo.words import FIRST, SCENES, SHAPES, World, pictures
from c2srt.errors import UserError
from c2srt.tables.rows import Row, Table, trials
from tests.test_commands import paste

IMAGES = {"train": 30, "validation": 6, "test": 12}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("miniature") / "raw"
    write_raw(root, 3, IMAGES, 1)
    return root


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_world_has_unseen_names_made_of_seen_words_only():
    every = FIRST.categories
    by_name = {category.name: category for category in every}
    assert len({category.mid for category in every}) == len(every) == len(by_name)
    assert [category.seen for category in every] == sorted(
        (category.seen for category in every), reverse=True
    )
    assert Counter(category.kind for category in every if not category.seen) == {
        "pair": 50,
        "event": 16,
    }
    assert all(by_name[word].seen for category in every for word in category.words)
    events = [category for category in every if category.kind == "event"]
    assert len({event.words for event in events}) == len(events)
    assert all(event.words[0] in SCENES and set(event.words[1:]) <= set(SHAPES) for event in events)


def test_worlds_differ_in_what_is_unseen_and_in_what_events_come_with():
    first, other = FIRST.categories, World(1).categories
    assert {category.name for category in first} == {category.name for category in other}
    assert World(1) == World(1) and World(1).categories == other

    def unseen(every):
        return {category.name for category in every if not category.seen}

    def companions(every):
        return {category.name: category.words for category in every if category.kind == "event"}

    assert unseen(first) != unseen(other) and FIRST.habits != World(1).habits
    same = [
        name for name in companions(first) if companions(first)[name] == companions(other)[name]
    ]
    assert len(same) < 5
    assert random_picture(FIRST, 0, "test", 1) != random_picture(World(1), 0, "test", 1)


def test_a_fold_hides_seen_categories_and_knows_none_that_a_test_asks_for():
    world, fold = World(3), World(3, fold=True)
    tested = {category.name for category in world.categories if not category.seen}
    hidden = {category.name for category in fold.categories if not category.seen}
    assert {category.name for category in fold.categories} == {
        category.name for category in world.categories if category.seen
    }
    assert not tested & hidden and fold.habits == world.habits
    kinds = Counter(category.kind for category in fold.categories if not category.seen)
    assert kinds == {"pair": 40, "event": 11}  # 50 of 262 pairs, 16 of 48 events are unseen
    picture = random_picture(fold, 0, "train", 1)
    assert len(truth(fold, picture)) == len(fold.categories)
    words = {word for category in fold.categories for word in category.words}
    assert words <= {category.name for category in fold.categories if category.seen}


def test_a_larger_world_has_the_smaller_one_s_names_and_shares_and_what_a_test_needs():
    world, share = World(2, size=800), {}
    every = world.categories
    assert len({each.name for each in every}) == len({each.mid for each in every}) == 800
    assert {each.name for each in World(2).categories} < {each.name for each in every}
    for size in (World(2), world):
        counts = Counter((each.kind, each.seen) for each in size.categories)
        share[size] = [counts[kind, False] / counts[kind, True] for kind in ("pair", "event")]
    assert share[world] == pytest.approx(share[World(2)], rel=0.05)
    events = [each.words for each in every if each.kind == "event"]
    assert len(set(events)) == len(events) == 109
    assert all(world.named[word].seen for each in every for word in each.words)
    images = pictures(800, {"train": 60, "validation": 10, "test": 100})
    assert images == {"train": 90, "validation": 15, "test": 227}
    positive = np.zeros(800)
    for number in range(images["test"]):
        content = random_picture(world, 0, "test", number)
        labels = verified(world, content, 0, False)
        true = truth(world, content)
        assert all(true[column] == present for column, present in labels.items())
        positive[[column for column, present in labels.items() if present]] += 1
    unseen = ~measure.seen(world)
    assert np.quantile(positive[unseen], 0.1) >= 1  # a test has 25 times as many pictures


def test_a_world_has_a_size_that_it_can_have():
    with pytest.raises(UserError, match="categories=9000 must be from 352 to 2,500"):
        Config(work="x", categories=9000)


def test_a_picture_is_a_pure_function_of_seed_split_and_number():
    assert random_picture(FIRST, 1, "train", 5) == random_picture(FIRST, 1, "train", 5)
    assert (
        len(
            {
                random_picture(FIRST, seed, split, n)
                for seed in (0, 1)
                for split in ("train", "test")
                for n in range(20)
            }
        )
        == 80
    )
    pixels = render(random_picture(FIRST, 1, "train", 5))
    assert pixels.shape == (SIZE, SIZE, 3) and pixels.dtype == np.uint8 and pixels.std() > 10
    assert np.array_equal(pixels, render(random_picture(FIRST, 1, "train", 5)))


def test_truth_is_the_union_over_objects_and_events_need_two_companions():
    every = FIRST.categories
    for number in range(40):
        content = random_picture(FIRST, 0, "train", number)
        true = {every[column].name for column in np.flatnonzero(truth(FIRST, content))}
        assert {
            content.scene,
            *(thing.shape for thing in content.things),
            *(thing.colour for thing in content.things),
        } <= true
        present = {content.scene, *(thing.shape for thing in content.things)}
        for event in (category for category in every if category.kind == "event"):
            assert (event.name in true) == (len(present & set(event.words)) >= 2)


def test_verified_labels_never_lie_and_training_never_names_the_unseen():
    every = FIRST.categories
    for number in range(40):
        content = random_picture(FIRST, 0, "train", number)
        true = truth(FIRST, content)
        for training in (True, False):
            labels = verified(FIRST, content, 0, training)
            assert all(true[column] == present for column, present in labels.items())
            assert not training or all(every[column].seen for column in labels)
        assert 0 < sum(labels.values()) < true.sum() + 1 and not all(labels.values())
    assert any(not every[column].seen for column in labels) or number


def test_captions_name_the_dominant_object_only_and_never_an_event():
    events = {category.name for category in FIRST.categories if category.kind == "event"}
    _, captions = captioned_chunk(FIRST, 0, range(200))
    for number, text in enumerate(captions):
        content = captioned_picture(FIRST, 0, number)
        words = set(text.split())
        assert words & set(SHAPES) <= {content.things[0].shape}
        assert not any(event in text for event in events)
    pairs = {
        category.name
        for category in FIRST.categories
        if category.kind == "pair" and not category.seen
    }
    assert any(pair in text for text in captions for pair in pairs)


def test_relations_name_seen_categories_only_and_tell_what_an_event_comes_with():
    by_mid = {category.mid: category for category in FIRST.categories}
    lines = [json.loads(line) for line in relation_lines(FIRST)]
    assert [line["mid"] for line in lines] == [category.mid for category in FIRST.categories]
    for line in lines:
        related = [by_mid[answer["mid"]] for answer in line["related"]]
        assert related and all(answer.seen and answer.mid != line["mid"] for answer in related)
        ranks = [("high", "medium", "low").index(answer["strength"]) for answer in line["related"]]
        assert ranks == sorted(ranks)
        if by_mid[line["mid"]].kind == "event":
            assert {answer.name for answer in related[:3]} == set(by_mid[line["mid"]].words)


def test_raw_layout_is_open_images(raw):
    folder = raw / "2018_04"
    for split, count in IMAGES.items():
        images = rows_of(folder / split / IMAGE_FILES[split])
        labels = rows_of(folder / split / f"{split}-annotations-human-imagelabels.csv")
        assert len(images) == count and {row["ImageID"] for row in labels} <= {
            row["ImageID"] for row in images
        }
        for row in images:
            file = raw / "images" / split / f"{row['ImageID']}.jpg"
            assert file.stat().st_size == int(row["OriginalSize"]) and Image.open(file).size == (
                SIZE,
                SIZE,
            )
    assert json.loads((raw / "relations.jsonl").read_text(encoding="utf-8").split("\n")[0])[
        "provenance"
    ]["oracle"]
    seen, unseen = (
        (folder / f"classes-{name}.txt").read_text().split() for name in ("seen", "unseen")
    )
    assert len(seen) + len(unseen) == len(FIRST.categories) and not set(seen) & set(unseen)
    assert json.loads((raw / "miniature.json").read_text())["key"] == raw_key(3, IMAGES)


def test_drawing_does_not_depend_on_the_number_of_processes(raw, tmp_path):
    write_raw(tmp_path, 3, IMAGES, 2)
    files = sorted(path.relative_to(raw) for path in raw.rglob("*") if path.is_file())
    assert files == sorted(
        path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()
    )
    assert all(
        (raw / file).read_bytes() == (tmp_path / file).read_bytes()
        for file in files
        if file.suffix != ".npz"
    )


def test_pretrained_clip_loads_through_open_clip_and_scores_as_it_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "IMAGES", 384)
    monkeypatch.setattr(pretrain, "STEPS", 120)
    monkeypatch.setattr(pretrain, "BATCH", 64)
    pretrain.pretrain(tmp_path, 0, 1)
    clip = load_clip(ClipConfig(str(tmp_path / "model.json"), str(tmp_path / "model.safetensors")))
    pixels, captions = captioned_chunk(FIRST, 0, range(128))
    images = normalise(
        torch.from_numpy(pixels).permute(0, 3, 1, 2),
        torch.tensor(clip.mean),
        torch.tensor(clip.std),
    )
    with torch.no_grad():
        patches, features = clip.tower(images)
        text = clip.encode_text(clip.tokenize(captions))
        own = torch.cosine_similarity(features, text, dim=-1).mean()
        other = torch.cosine_similarity(features, text.roll(1, 0), dim=-1).mean()
    assert patches.shape == (128, 64, 64) and own > other + 0.02


def test_scattered_embedding_gives_the_features_of_the_compact_one():
    captions = captioned_chunk(FIRST, 0, range(64))[1]
    model, compact, used = pretrain.compact_model(captions)
    model.eval()
    state = pretrain.full_state(model, used)
    from c2srt.backbone.clip import build_model

    full = build_model(pretrain.MODEL)
    full.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(full.eval().encode_text(used[compact]), model.encode_text(compact))


def test_figures_of_a_perfect_and_a_random_scorer():
    contents = [random_picture(FIRST, 0, "test", number) for number in range(200)]
    true = np.stack([truth(FIRST, content) for content in contents])
    labels = np.zeros(true.shape, np.int8)
    for row, content in enumerate(contents):
        for column, present in verified(FIRST, content, 0, False).items():
            labels[row, column] = 1 if present else -1
    split = measure.Split(FIRST, [str(n) for n in range(200)], torch.empty(0), labels, true)
    perfect = measure.figures(true.astype(np.float32), split, (3, 10))
    chance = measure.figures(
        np.random.default_rng(0).random(true.shape, np.float32), split, (3, 10)
    )
    assert all(value == pytest.approx(1) for name, value in perfect.items() if "mAP" in name)
    assert all(chance[name] < 0.6 for name in perfect if "mAP" in name)
    assert chance["true opaque mAP"] == pytest.approx(
        true[:, measure.of_kind(FIRST, "event")].mean(), abs=0.06
    )


def test_neighbours_score_events_only():
    scores = np.random.default_rng(0).normal(size=(50, len(FIRST.categories)))
    neighbours = torch.full((len(FIRST.categories), 4), -1)
    event = next(
        column for column, category in enumerate(FIRST.categories) if category.kind == "event"
    )
    neighbours[event, :2] = torch.tensor([0, 1])
    result, standard = (
        measure.neighbour_scores(FIRST, scores, neighbours),
        (scores - scores.mean(0)) / scores.std(0),
    )
    assert np.allclose(result[:, event], standard[:, :2].mean(1))
    assert np.allclose(np.delete(result, event, 1), np.delete(standard, event, 1))


def test_the_table_shows_both_spreads():
    names = table.columns([3, 10])
    values = {
        trial: dict.fromkeys(names, value)
        for trial, value in zip(trials(3, 3), (0.1, 0.2, 0.3, 0.4, 0.5), strict=False)
    }
    both = {"prior only": {(0, 0): dict.fromkeys(names, 0.25)}, "full": values}
    text = table.markdown("The caption", both, [3, 10])
    assert (
        text.startswith("**The caption**")
        and "| prior only | 25.0 |" in text
        and "| full | 30.0 ±10.0 ±20.0 |" in text
    )
    assert "half the range" in table.notes(5) and "half the range" not in table.notes(1)


def test_picture_is_written(tmp_path):
    pixels = torch.from_numpy(
        np.stack([render(random_picture(FIRST, 0, "test", number)) for number in range(8)])
    ).permute(0, 3, 1, 2)
    true = np.stack([truth(FIRST, random_picture(FIRST, 0, "test", number)) for number in range(8)])
    split = measure.Split(FIRST, [str(n) for n in range(8)], pixels, true.astype(np.int8), true)
    picture.draw_predictions(tmp_path / "predictions.png", split, true * 0.5, true * 1.0)
    assert min(Image.open(tmp_path / "predictions.png").size) > 1000


@pytest.mark.parametrize(
    "wrong",
    [{"tables": {}}, {"seeds": 0}, {"images": {"train": 5}}, {"images": {**IMAGES, "test": 0}}],
)
def test_bad_settings_get_a_sentence(wrong):
    with pytest.raises(UserError):
        run.Config(
            **{
                "work": "x",
                "images": IMAGES,
                "tables": {"main": Table("", [Row("full", run="full")])},
                **wrong,
            }
        )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_road_twice(tmp_path, monkeypatch, capsys):
    """Every verb, small, with the prompts' rows: figures as by `c2srt evaluate`, and the second run
    repeats nothing.
    """
    from c2srt.cluster.cli import main

    monkeypatch.setattr(pretrain, "IMAGES", 512)
    monkeypatch.setattr(pretrain, "STEPS", 10)
    monkeypatch.setattr(pretrain, "BATCH", 32)
    arguments = [
        "demo",
        f"work={tmp_path}",
        "tables=[prompts]",
        "images={train:120,validation:20,test:40}",
        'commands.train=["steps=4"]',
        'commands.tune=["steps=2"]',
    ]
    assert main(arguments) == 0
    folders = {
        "CLIP zero-shot": "evaluation-clip",
        "simple": "simple-prompt/seed-0/evaluation",
        "prompt tuning": "tuned-prompt/seed-0/evaluation",
        "ensemble (full C²SRT)": "full/seed-0/evaluation",
    }
    written = json.loads((tmp_path / "report/table.json").read_text())
    record = written["rows"]
    assert set(record) == {"prior only", *folders} == set(written["tables"]["prompts"]["rows"])
    assert record["simple"][0]["GZSL mAP"] != record["prompt tuning"][0]["GZSL mAP"]
    for row, folder in folders.items():
        results = json.loads((tmp_path / folder / "results.json").read_text())
        for name, label_set in (("ZSL", "zsl"), ("GZSL", "gzsl")):
            assert record[row][0][f"{name} mAP"] == pytest.approx(
                results[label_set]["mAP"]["per_class"], abs=1e-3
            )
            assert record[row][0][f"{name} F1@10"] == pytest.approx(
                results[label_set]["F1@10"]["F1"], abs=1e-3
            )

    def times():
        written = [*tmp_path.rglob("model.safetensors"), *tmp_path.rglob("results.json")]
        return {path: path.stat().st_mtime_ns for path in written}

    models, printed = times(), capsys.readouterr().out
    typed = [
        line.strip()
        for line in printed.partition("The whole demo took")[2].splitlines()
        if line.startswith("  c2srt ")
    ]
    assert [line.split()[1] for line in typed] == [
        "predict",
        "figures",
    ] and "drawn shapes only" in printed
    tagged = paste(typed[0], tmp_path)
    assert tagged.returncode == 0 and len(tagged.stdout.splitlines()) == 1 + 4, (
        "a picture and the four words"
    )
    assert main(arguments) == 0
    assert times() == models and len(models) >= 3 + 5
    assert "mlflow ui" in capsys.readouterr().out
    assert (
        main(["tables", f"work={tmp_path}", "tables=[prompts]", *arguments[4:]]) == 0
    )  # it finds all of it
    assert times() == models
    collected = json.loads((tmp_path / "tables/prompts.json").read_text())
    for row in collected["rows"]:
        values = row["trials"][0]["values"]
        assert record[row["name"]][0]["opaque mAP"] == pytest.approx(
            values["group/opaque/per_class"], abs=1e-3
        )
        assert record[row["name"]][0]["GZSL F1@10"] == pytest.approx(
            values["gzsl/F1@10/F1"], abs=1e-3
        )
