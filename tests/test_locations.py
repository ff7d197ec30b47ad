"""`://` is never taken for a path: a key takes an address or refuses it in one sentence."""

from typing import Any

import pytest

import c2srt
from c2srt.cluster.cli import VERBS, main
from c2srt.compose import leaves, to_config
from c2srt.errors import UserError
from c2srt.locations import refuse_address, refuse_addresses, texts
from tests.verbs import compose_verb, config_class

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


@pytest.mark.parametrize(
    "typed", ["s3://b/x", "gs://b/x", "https://host/x", "c2srt://x", "s3:///x"]
)
def test_the_command_line_refuses_one_before_it_starts(typed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["text", f"out={typed}"]) == 2
    assert capsys.readouterr().err == (
        f"c2srt text: out={typed} is an address, and out takes none: give a file or folder of this"
        " machine\n"
    )
    assert not list(tmp_path.iterdir())


def test_what_follows_from_another_key_is_refused_by_its_own_name(capsys):
    assert main(["text", "work=s3://bucket/w"]) == 2
    assert "=s3://bucket/w/" in capsys.readouterr().err


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


def test_the_library_refuses_one_and_shows_no_password():
    with pytest.raises(UserError, match="s3://bucket/model is an address, and no model is read"):
        c2srt.load("s3://bucket/model")
    with pytest.raises(UserError) as error:
        refuse_address("https://me:hush@host/model", "model")
    assert "hush" not in str(error.value)
