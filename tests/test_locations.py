"""`://` is never taken for a path: a key takes an address or refuses it in one sentence."""

from typing import Any

import pytest

import c2srt
from c2srt.cluster.cli import VERBS, main
from c2srt.compose import leaves, to_config
from c2srt.errors import UserError
from c2srt.keys import Takes
from c2srt.locations import ROAD, keys_of, refuse_addresses, texts
from c2srt.predict.finding import find_images
from c2srt.scratch import path_of, place_of
from c2srt.train.config import Config, from_settings
from tests.verbs import compose_verb, config_class, plain_defaults

URL = "s3://bucket/folder"
ADDRESSES = ("tracking.uri", "url", "words.url", "images", "commands", "clips", "given")
"""Keys that take one, or the overrides of other verbs."""


@pytest.mark.parametrize("verb", VERBS)
def test_an_address_is_refused_wherever_none_is_meant(verb):
    """In every key in which text, or a list, may stand."""
    composed, cls = compose_verb(verb, []), config_class(verb)
    looked = 0
    for name, default in leaves(composed).items():
        group = name.partition(".")[0]
        if (
            group not in cls.__dataclass_fields__
            or name.startswith(ADDRESSES)
            or not isinstance(default, (str, list, type(None)))
        ):
            continue
        refused = rf"{group}\S*={URL} is an address, and {group}\S* takes none"
        with pytest.raises(UserError, match=refused):
            refuse_addresses(cls, nested(name, URL))
        looked += 1
    assert looked or verb == "init"


def nested(name: str, value: str) -> dict[str, Any]:
    """{"a": {"b": value}} of "a.b"."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


@pytest.mark.parametrize("verb", ["figures", "tables", "tune", "plan", "relations-mine", "bench"])
@pytest.mark.parametrize("url", ["s3://bucket/x", "https://host/x"])
def test_a_verb_off_the_road_refuses_one_before_it_starts(verb, url, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    what = ["what=head"] * (verb == "bench")
    assert main([verb, *what, f"out={url}"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]  # after the line that it begins
    assert said == (
        f"c2srt {verb}: out={url} is an address, and out takes none: give a file or folder of this"
        " machine"
    )
    assert main([verb, *what, "work=s3://bucket/w"]) == 2
    assert "s3://bucket/w" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "typed, why",
    [
        ("out=gs://b/x", "no store is known by gs://, only by s3:// and https://"),
        ("out=c2srt://x", "no store is known by c2srt://, only by s3:// and https://"),
        ("out=s3:///x", "'' is no bucket"),
        ("work=s3://b/../x", "'b' is no bucket"),
        ("out=s3://me:hush@bucket/x", "an address holds no password, key or query: credentials"),
        ("shards=https://host/x?token=hush", "an address holds no password, key or query: cred"),
        ("out=https://host/x", "a web server is only read: give a folder of this machine, or s3"),
    ],
)
def test_what_is_no_place_is_a_sentence(typed, why, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["text", typed]) == 2
    said = capsys.readouterr().err
    assert why in said and len(said.splitlines()) == 1 and "hush" not in said
    assert not list(tmp_path.iterdir())


def test_the_folders_of_the_road_may_lie_in_a_store():
    places = (Takes.PLACE, Takes.ABOVE)
    found = {
        verb: {
            name
            for name, takes, _ in keys_of(config_class(verb), plain_defaults(verb))
            if takes in places
        }
        for verb in ROAD
    }
    artefacts = {"shards", "text", "relations", "teacher"}
    assert found == {
        "shard": {"out", "data.root", "data.groups"},
        "audit": {"out", "shards", "data.root", "data.groups"},
        "text": {"out", "shards", "relations"},
        "relations": {"out", "shards", "text", "root"},
        "teacher": {"out", "shards"},
        "train": {"out", "work", *artefacts},
        "evaluate": {"out", "checkpoint", "shards", "text", "relations"},
        "export": {"out", "checkpoint"},
        "predict": {"checkpoint"},
    }


def test_settings_are_written_down_with_addresses_and_read_with_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("C2SRT_STORE", str(tmp_path))
    path = path_of(place_of("s3://bucket/w"))
    folders = dict.fromkeys(("text", "relations", "teacher", "work", "out"), str(path))
    config = Config(shards=str(path / "shards"), **folders)
    settings = config.settings()
    assert settings["shards"] == "s3://bucket/w/shards" and str(tmp_path) not in str(settings)
    assert from_settings(settings) == config
    monkeypatch.setenv("C2SRT_STORE", str(tmp_path / "other"))
    assert from_settings(settings).out == str(path_of(place_of("s3://bucket/w")))


def test_a_list_and_a_dictionary_are_looked_through():
    assert list(texts({"a": ["b", {"c": "d"}], "e": 1})) == ["b", "d"]


def test_keys_that_take_addresses_keep_them():
    """MLflow's stores, pictures, language models, and what other verbs are given."""
    mined = compose_verb("relations-mine", ["url=http://127.0.0.1:1/v1"])
    assert to_config(config_class("relations-mine"), mined).url == "http://127.0.0.1:1/v1"
    shown = compose_verb("predict", ["images=[https://host/a.jpg]", "labels=[dog]"])
    assert to_config(config_class("predict"), shown).images == ["https://host/a.jpg"]
    tables = compose_verb("tables", ['commands.train=["tracking.uri=http://127.0.0.1:1"]'])
    assert to_config(config_class("tables"), tables).commands["train"]
    trained = compose_verb("train", ["tracking.uri=http://127.0.0.1:1"])
    assert to_config(config_class("train"), trained).tracking.uri == "http://127.0.0.1:1"


def test_no_picture_is_read_from_another_address():
    with pytest.raises(UserError, match=r"images=s3://b/x\.jpg is an address that no picture"):
        find_images(["s3://b/x.jpg"])


def test_the_library_refuses_what_is_no_place_and_shows_no_password():
    with pytest.raises(UserError, match="checkpoint=gs://b/model: no store is known by gs://"):
        c2srt.load("gs://b/model")
    with pytest.raises(UserError, match="an address holds no password") as error:
        c2srt.load("https://me:hush@host/model")
    assert "hush" not in str(error.value)
