"""Words outside the vocabulary: neighbours by similarity or from a language model, found once,
kept, scored through IST.
"""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

import c2srt
from c2srt.cluster.cli import main
from c2srt.errors import UserError
from c2srt.export.read import load_export
from c2srt.relations.config import WordsConfig
from tests.llm_server import KEY, MODEL, LlmServer
from tests.tiny import tiny_export

NAMES = ("Dog", "Cat", "Tree", "Car", "Cloud", "Boat", "Zebra", "Dog")
FREE = {"price_input": 0.0, "price_output": 0.0, "model": MODEL}
RELATED = {
    "red car": [
        ("Car", "is-a", "High"),
        ("Tree", "co-occurrence", "Low"),
        ("Boat", "functional", "Medium"),
    ],
    "regatta": [("Boat", "part-whole", "High")],
    "nothing like it": [],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    tiny_export(folder / "model", folder, NAMES, ["a {}.", "the {}"])
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)).save(
        folder / "photo.png"
    )
    return folder


def scores(predictor, made, words: list[str]) -> dict[str, float]:
    return dict(predictor.predict(made / "photo.png", words, topk=None)[0].labels)


def test_similar_words_are_embedded_once_across_processes_and_scored_as_without_the_cache(
    made, tmp_path, monkeypatch
):
    exported = load_export(made / "model")
    graph, columns = exported.graph_for(["red car", "dog", "regatta"])
    cache = WordsConfig(cache=str(tmp_path / "cache"))
    predictor = c2srt.load(made / "model", cache)
    pixels = predictor.read(made / "photo.png")[1][None]
    expected = exported.scores(pixels, graph)[0][0, columns]
    found = scores(predictor, made, ["red car", "dog", "regatta"])
    assert [found["red car"], found["dog"], found["regatta"]] == pytest.approx(
        expected.tolist(), abs=1e-5
    )
    again = c2srt.load(made / "model", cache)
    monkeypatch.setattr(
        again.model.new_words, "similar", lambda words: pytest.fail(f"{words} were embedded before")
    )
    monkeypatch.setattr(predictor.model.new_words, "similar", again.model.new_words.similar)
    for one in (predictor, again):
        assert scores(one, made, ["regatta", "red car", "dog"]) == pytest.approx(found, abs=1e-5)
    lines = [
        json.loads(line)
        for path in (tmp_path / "cache").iterdir()
        for line in path.read_text().splitlines()
        if line
    ]
    assert [line["word"] for line in lines] == ["red car", "regatta"]


def test_a_torn_cache_is_mended_and_one_of_another_model_is_not_read(made, tmp_path):
    cache = WordsConfig(cache=str(tmp_path))
    found = scores(c2srt.load(made / "model", cache), made, ["red car", "regatta"])
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-9])
    for _ in range(2):
        assert scores(
            c2srt.load(made / "model", cache), made, ["red car", "regatta"]
        ) == pytest.approx(found, abs=1e-5)
    words = [
        json.loads(line)["word"] for line in path.read_bytes().splitlines() if line.endswith(b"}")
    ]
    assert words == ["red car", "regatta"]
    other = c2srt.load(made / "model", cache)
    other.model.exported.templates.append("one {}")
    assert (
        c2srt.predict.models.NewWords(
            cache,
            other.model.exported.vocabulary,
            other.model.exported.graph.text,
            3,
            other.model.exported.templates,
            other.model.exported.by_similarity,
            tmp_path,
        ).path
        != path
    )


def test_the_model_s_own_folder_is_the_default_and_may_be_read_only(made, monkeypatch):
    assert scores(c2srt.load(made), made, ["sled"]).keys() == {"sled"}
    assert list((made / "model/new-words").glob("words-*.jsonl"))
    predictor = c2srt.load(made, WordsConfig(cache="/proc/nowhere"))
    assert scores(predictor, made, ["sled"]) == pytest.approx(scores(predictor, made, ["sled"]))


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def test_a_language_model_is_asked_once_about_a_word(made, tmp_path, key, capfd):
    exported = load_export(made / "model")
    with LlmServer(RELATED) as server:
        words = WordsConfig(neighbours="llm", cache=str(tmp_path), url=server.url, **FREE)
        predictor = c2srt.load(made, words)
        found = scores(predictor, made, ["red car", "zebra", "nothing like it"])
        assert sorted(target for target, _ in server.served) == ["nothing like it", "red car"]
        assert scores(c2srt.load(made, words), made, ["regatta", "red car"])[
            "red car"
        ] == pytest.approx(found["red car"], abs=1e-5)
        assert len(server.served) == 3
    text, table = predictor.model.new_words.find(["red car", "nothing like it"])
    assert table.tolist() == [[3, 5, 2], [-1, -1, -1]]  # Car high, Boat medium, Tree low; none
    assert torch.equal(text, exported.embed(["red car", "nothing like it"]))
    pixels = predictor.read(made / "photo.png")[1][None]
    graph, columns = exported.graph_for(["red car"], lambda new: (text[:1], table[:1]))
    assert found["red car"] == pytest.approx(
        exported.scores(pixels, graph)[0][0, columns].item(), abs=1e-5
    )
    by_text = scores(c2srt.load(made, WordsConfig(cache=str(tmp_path))), made, ["red car", "zebra"])
    assert (
        by_text["zebra"] == pytest.approx(found["zebra"], abs=1e-5)
        and abs(by_text["red car"] - found["red car"]) > 1e-4
    )
    assert capfd.readouterr().out == "" and KEY not in "".join(
        path.read_text() for path in tmp_path.iterdir()
    )


def test_similar_ones_stand_in_for_an_answer_that_never_comes(made, tmp_path, key, capsys):
    with LlmServer(RELATED, fault=lambda target, nth: "nonsense") as server:
        words = WordsConfig(neighbours="llm", cache=str(tmp_path), url=server.url, **FREE)
        predictor = c2srt.load(made, words)
        by_text = scores(c2srt.load(made, WordsConfig(cache=str(tmp_path))), made, ["red car"])
        assert scores(predictor, made, ["red car"]) == pytest.approx(by_text, abs=1e-5)
    assert (
        "1 questions about new words have no answer: text similarity stands in"
        in capsys.readouterr().err
    )


def test_the_command_asks_and_keeps_stdout_for_the_labels(made, tmp_path, key, capsys):
    with LlmServer(RELATED) as server:
        arguments = [
            "predict",
            f"checkpoint={made}/model",
            f"images={made}/photo.png",
            "labels=[red car,dog]",
            "json=true",
            "words.neighbours=llm",
            f"words.url={server.url}",
            f"words.cache={tmp_path}",
            *(f"words.{name}={value}" for name, value in FREE.items()),
        ]
        assert main(arguments) == 0 == main(arguments)
        assert len(server.served) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (
        len(lines) == 2
        and lines[0] == lines[1]
        and {label["label"] for label in lines[0]["labels"]} == {"red car", "dog"}
    )


def test_bad_input_is_one_sentence(made, tmp_path, capsys, monkeypatch):
    arguments = [
        "predict",
        f"checkpoint={made}/model",
        f"images={made}/photo.png",
        "labels=[yacht]",
        f"words.cache={tmp_path}",
    ]
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for extra, sentence in (
        (["words.neighbours=magic"], "words.neighbours=magic is not known"),
        (["words.neighbours=llm", "words.model=m"], "say what a million tokens cost"),
        (
            [
                "words.neighbours=llm",
                "words.model=m",
                "words.price_input=0",
                "words.price_output=0",
            ],
            "no key",
        ),
        (["words.neighbours=llm", "words.model=m", "words.budget=0"], "above zero"),
    ):
        assert main(arguments + extra) == 2
        assert sentence in capsys.readouterr().err
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(UserError, match="give words.cache="):
            c2srt.load(made, WordsConfig(neighbours="llm", cache=str(tmp_path), **FREE)).predict(
                made / "photo.png", ["yacht"]
            )
