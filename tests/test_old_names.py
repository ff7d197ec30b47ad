"""Keys of `c2srt train` by the names that they had before they stood in groups: on the command
line, in the files of data sets, in what earlier runs wrote.
"""

from dataclasses import fields

import pytest
import yaml

from c2srt import datasets, hints
from c2srt.cluster.slurm.keys import job_keys
from c2srt.compose import leaves, to_config
from c2srt.errors import UserError
from c2srt.files import hash_of
from c2srt.keys import Mark, changed, mark_of
from c2srt.old_names import GROUPS, OLD, TODAY, grouped, old, today, written
from c2srt.plan.config import Config as PlanConfig
from c2srt.tables.rows import Row
from c2srt.train.checkpoints import Record, check_resumable
from c2srt.train.config import Config, from_settings
from tests.verbs import compose_verb, plain_defaults

PATHS = dict.fromkeys(("shards", "text", "relations", "teacher", "work", "out"), "/w")
TYPED = {
    "epochs": 3,
    "steps": 9,
    "batch": 6,
    "micro_batch": 3,
    "warmup": 0.25,
    "lr": 0.5,
    "head_lr": 0.25,
    "weight_decay": 0.125,
    "layer_decay": 0.5,
    "clip_grad_norm": 2.0,
    "precision": "bf16",
    "zero": 2,
    "offload": True,
    "deterministic": True,
    "checkpoint_every": 7,
    "keep_last": 3,
    "validate_every": 4,
    "validation_images": 11,
    "loader_workers": 0,
    "gpus_per_worker": 0.5,
    "cpus_per_worker": 2.0,
    "min_workers": 1,
    "start_timeout": 5.0,
    "collective_timeout": 6.0,
    "max_failures": 8,
    "max_nonfinite": 12,
    "log_every": 13,
    "record_samples": True,
}
WRITTEN = {
    **dict.fromkeys(("shards", "text", "relations", "teacher", "work", "out"), "/w"),
    **TYPED,
    "seed": 0,
    "workers": 2,
    "clip": {"name": "ViT-B-16", "pretrained": "openai"},
    "views": {
        "count": 4,
        "scale_min": 0.3,
        "scale_max": 1.0,
        "ratio_min": 0.75,
        "ratio_max": 4 / 3,
        "flip": True,
    },
    "tracking": {
        "uri": None,
        "experiment": "album",
        "name": None,
        "parent": None,
        "model": True,
        "register": None,
    },
}
"""The settings of a checkpoint as runs of all ages write them, but for `model` and `loss`."""
IDENTITY_BEFORE, RECIPE_BEFORE = "bde973a8bd11d191", "6244629787766415"
"""Hashes that the commit before the groups made: of a config of defaults, and of a table's row."""


def config_of(verb: str, *typed: str) -> Config:
    cls = {"train": Config, "plan": PlanConfig}[verb]
    return to_config(cls, compose_verb(verb, ["work=/w", *typed]))


def test_every_old_name_has_a_key_of_its_own_today():
    keys = leaves(compose_verb("train", []))
    assert set(TODAY) == set(TYPED) and len(OLD) == len(TODAY)
    assert set(OLD) <= set(keys) and not set(TODAY) & set(keys)
    assert set(GROUPS) <= {each.name for each in fields(Config)}


@pytest.mark.parametrize("verb", ["train", "plan"])
def test_old_names_on_the_command_line_mean_todays_keys(verb):
    olds = config_of(verb, *(f"{name}={value}" for name, value in TYPED.items()))
    news = config_of(verb, *(f"{TODAY[name]}={value}" for name, value in TYPED.items()))
    assert olds == news != config_of(verb)
    assert written_of(olds) == TYPED


def written_of(config: Config) -> dict:
    return {name: value for name, value in config.settings().items() if name in TYPED}


@pytest.mark.parametrize(
    "typed, expected",
    [
        (["++lr=0.5"], 0.5),
        (["lr=0.5", "lr=0.25"], 0.25),
        (["lr=0.5", "optimizer.lr=0.25"], 0.25),
        (["optimizer.lr=0.5", "lr=0.25"], 0.25),
        (["~lr"], 0.001),
        (["lr=${head_lr}", "head_lr=0.125"], 0.125),
        (["lr=${optimizer.head_lr}", "head_lr=0.125"], 0.125),
        (["optimizer={lr: 0.5}"], 0.5),
    ],
)
def test_signs_references_and_the_last_word_hold_for_both_names(typed, expected):
    assert config_of("train", *typed).optimizer.lr == expected


def test_a_wrong_value_is_refused_by_todays_name():
    for typed, sentence in (
        ("lr=-1", r"optimizer\.lr=-1.0 must be at least 0"),
        ("lr=fast", r"optimizer\.lr: Value 'fast'"),
        ("zero=7", r"engine\.zero=7 is not a ZeRO stage"),
        ("min_workers=3", r"faults\.min_workers=3 must be from 1 to workers=2"),
        ("optimizer.l=1", r"unknown key 'optimizer.l', did you mean 'optimizer.lr'\?"),
        ("warmup=1", r"schedule\.warmup=1.0 must be in \[0, 1\)"),
    ):
        with pytest.raises(UserError, match=sentence):
            config_of("train", typed)


def test_other_verbs_keep_their_own_keys():
    assert compose_verb("tune", ["lr=0.5", "log_every=3"]).lr == 0.5
    with pytest.raises(UserError, match="unknown key 'optimizer"):
        compose_verb("tune", ["optimizer.lr=0.5"])
    assert (today("~lr"), today("a=lr"), today(r"out=\${lr}"), old("+optimizer.lr=1")) == (
        "~optimizer.lr",
        "a=lr",
        r"out=\${lr}",
        "+lr=1",
    )


def test_a_printed_command_has_one_name_for_a_key():
    with hints.running("train", ["lr=0.5", "epochs=3"]):
        again = hints.Command("train", values={"schedule.epochs": 9})
        assert str(again) == "c2srt train optimizer.lr=0.5 schedule.epochs=9"


def test_a_data_set_s_schedule_may_have_the_old_names(tmp_path, monkeypatch):
    for path in datasets.FOLDER.iterdir():
        if path.name.endswith(".yaml"):
            (tmp_path / path.name).write_text(path.read_text())
    content = yaml.safe_load((tmp_path / "miniature.yaml").read_text())
    flat = {
        "epochs": 5,
        "lr": 0.5,
        "model": {"layers": 3},
        "tracking": {"name": "x"},
        "log_every": 2,
    }
    (tmp_path / "album.yaml").write_text(yaml.safe_dump(content | {"schedule": flat}))
    monkeypatch.setattr(datasets, "FOLDER", tmp_path)
    config = config_of("train", "data=album")
    assert (config.schedule.epochs, config.optimizer.lr, config.model.layers) == (5, 0.5, 3)
    assert (config.tracking.name, config.tracking.every) == ("x", 2)


def test_the_settings_of_an_earlier_run_are_read_and_written_as_they_were():
    config = from_settings(WRITTEN)
    assert (config.optimizer.lr, config.tracking.samples, config.engine.zero) == (0.5, True, 2)
    settings = config.settings()
    assert {name: settings[name] for name in WRITTEN} == WRITTEN
    assert set(settings) - set(WRITTEN) == {"model", "loss"}
    assert from_settings(settings) == config and grouped(grouped(settings)) == grouped(settings)
    assert written(grouped(settings)) == settings
    with pytest.raises(UserError, match="not those of this version"):
        from_settings(WRITTEN | {"momentum": 1})


def test_the_identity_of_an_earlier_run_is_the_same():
    config = Config(**PATHS)
    assert config.hash() == IDENTITY_BEFORE
    harmless = {name for name in TYPED if mark_of(Config, TODAY[name]) is Mark.HARMLESS}
    for name, value in TYPED.items():
        other = config if name != "offload" else changed(config, {"engine.zero": 2})
        same = changed(other, {TODAY[name]: value}).hash() == IDENTITY_BEFORE
        assert same == (name in harmless), name


def test_a_checkpoint_of_other_settings_is_refused_by_todays_name(tmp_path):
    before = changed(Config(**PATHS), {"optimizer.lr": 0.5})
    record = Record(1, 1, before.identity(), {}, before.settings())
    with pytest.raises(UserError, match=r"made with optimizer\.lr=0\.5, not 0\.001"):
        check_resumable(tmp_path, record, Config(**PATHS).identity(), {})


def test_a_later_key_is_written_down_where_it_changes_what_was_before(tmp_path):
    """So that runs from before it go on, under the hash that they have."""
    before = Config(**PATHS)
    streams = changed(before, {"schedule.streams": 8})
    assert "schedule" not in before.settings() and "schedule" not in before.identity()
    assert streams.settings()["schedule"] == {"streams": 8}
    assert from_settings(streams.settings()) == streams
    assert from_settings(before.settings()) == before
    record = Record(1, 1, before.identity(), {}, before.settings())
    check_resumable(tmp_path, record, before.identity(), {})
    with pytest.raises(UserError, match=r"made with schedule\.streams=None, not 8"):
        check_resumable(tmp_path, record, streams.identity(), {})


@pytest.mark.parametrize(
    "train",
    [
        ["lr=3e-3", "model.score_scale=8", "epochs=4"],
        ["optimizer.lr=3e-3", "model.score_scale=8", "schedule.epochs=4"],
    ],
)
def test_a_table_s_row_is_the_same_by_either_name(train):
    assert hash_of(Row("a", run="a", train=train).recipe) == RECIPE_BEFORE


def test_a_script_s_key_gives_way_to_the_command_line_by_either_name(monkeypatch):
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    script = ["work=/w", "engine.precision=bf16", "loader.workers=4"]
    for own in ("precision=fp32", "engine.precision=fp32"):
        assert job_keys("train", script, [own]) == ["work=/w", "loader.workers=4", own]


def test_the_defaults_are_written_under_the_old_names():
    assert set(written(plain_defaults("train"))) >= {*TYPED, "model", "loss", "tracking"}
