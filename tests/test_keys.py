"""The dataclasses of the verbs as the one source of defaults, help and marks."""

import subprocess
import sys
from dataclasses import asdict, fields, is_dataclass
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from c2srt.cluster.cli import VERBS, main
from c2srt.compose import leaves
from c2srt.data_keys import OF_LAYOUT, DataKeys
from c2srt.datasets import data_sets
from c2srt.keys import Mark, deciding, defaults, from_plain, key
from c2srt.model.kinds import KINDS
from c2srt.sharding.config import Config as ShardConfig
from c2srt.shared_keys import SharedKeys
from c2srt.train.config import Config, from_settings
from c2srt.train.key_groups import OptimizerConfig
from c2srt.tune_config import Config as TuneConfig
from tests.verbs import compose_verb, config_class, plain_defaults

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "open_clip", "polars", "ray", "mlflow", "deepspeed")
PATHS = dict.fromkeys(("shards", "text", "relations", "teacher", "work", "out"), "/w")
DECIDING = {
    "model",
    "loss",
    "views",
    "seed",
    "batch",
    "lr",
    "head_lr",
    "weight_decay",
    "layer_decay",
    "warmup",
    "clip_grad_norm",
    "precision",
    "deterministic",
}
"""Of `c2srt train`: what a checkpoint of any version must agree with."""


def test_what_makes_two_trainings_the_same():
    config = Config(**PATHS)
    assert set(config.identity()) == DECIDING
    assert config.identity() == {name: config.settings()[name] for name in DECIDING}
    assert config.identity()["lr"] == config.optimizer.lr


def test_what_makes_two_tunings_the_same():
    config = TuneConfig(checkpoint="m", shards="s", out="o")
    assert set(deciding(config)) - {"epochs", "steps"} == {
        "template",
        "batch",
        "lr",
        "seed",
        "views",
    }


def test_what_decides_a_shard_s_bytes():
    assert ShardConfig().settings() == {
        "images_per_shard": 10_000,
        "resize": 256,
        "quality": 90,
        "unlabelled": "skip",
        "max_pixels": 100_000_000,
        "max_bytes": 64 << 20,
        "conversion": 2,
    }


def test_the_recorded_settings_make_the_config_again():
    config = Config(**PATHS, optimizer=OptimizerConfig(3e-3))
    again = from_settings(config.settings())
    assert again == config and type(again.model) is type(config.model)
    assert from_plain(Config, asdict(config)) == config


@pytest.mark.parametrize("verb", VERBS)
def test_every_key_has_its_help_and_one_of_three_marks(verb):
    def walk(cls: type) -> None:
        for each in fields(cls):
            assert isinstance(each.metadata["mark"], Mark), each.name
            assert each.metadata["about"] or each.name == "given", each.name
            if is_dataclass(each.default_factory) and each.name not in ("cluster", "sizes"):
                walk(each.default_factory)

    walk(config_class(verb))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem
)
def test_a_verb_s_yaml_holds_groups_and_what_it_sets_otherwise(path):
    """A default of the dataclass does not stand there again."""
    own = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = defaults(SharedKeys) | defaults(config_class(path.stem))
    assert {name: value for name, value in own.items() if known.get(name) == value} == {}


@pytest.mark.parametrize("data", ["csv", "miniature", "nuswide", "openimages"])
def test_a_schedule_holds_what_differs_from_the_defaults(data):
    text = files("c2srt.configs").joinpath(f"datasets/{data}.yaml").read_text(encoding="utf-8")
    known = leaves(OmegaConf.create(defaults(Config)))
    own = leaves(OmegaConf.create(yaml.safe_load(text)["schedule"]))
    assert own and {name: value for name, value in own.items() if known[name] == value} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_what_belongs_to_a_network_differs_from_the_defaults(kind):
    text = files("c2srt.configs").joinpath(f"networks/{kind}.yaml").read_text(encoding="utf-8")
    own, known = yaml.safe_load(text) or {}, defaults(Config)
    assert set(own) <= {"loss"}
    assert not [name for name, value in own.get("loss", {}).items() if known["loss"][name] == value]


@pytest.mark.parametrize("data", data_sets())
def test_the_keys_of_a_data_set_differ_from_the_defaults(data):
    text = files("c2srt.configs").joinpath(f"datasets/{data}.yaml").read_text(encoding="utf-8")
    own = yaml.safe_load(text)["data"]
    known = defaults(OF_LAYOUT.get(own.get("layout", DataKeys.layout), DataKeys))
    assert own.pop("name") == data
    assert own.keys() <= known.keys() and not [key for key in own if own[key] == known[key]]
    typed = [f"data={data}", "data.root=/x", "data.images_per_shard=9", "+data.resize=7"]
    composed = compose_verb("shard", typed)
    assert set(composed.data) == set(known)
    assert (composed.images_per_shard, composed.data.resize, composed.resize) == (9, 7, 7)


def test_the_keys_of_a_data_set_are_those_of_its_layout(capsys):
    """In help, and where one is mistyped."""
    assert main(["shard", "data=csv", "--help"]) == 0
    assert "\n  label_separator: null " in (said := capsys.readouterr().out)
    assert "machine_threshold" not in said
    assert main(["shard", "data=csv", "data.lables=tags"]) == 2
    assert "did you mean 'data.labels'?" in capsys.readouterr().err
    assert main(["shard", "data=nope", "--help"]) == 2
    assert "data=nope does not exist: choose one of coco, csv, " in capsys.readouterr().err


def test_a_verb_s_key_follows_the_data_set_where_that_says_something():
    nus, own = (compose_verb("relations", [f"data={name}"]) for name in ("nuswide", "openimages"))
    assert (nus.neighbours, own.neighbours, own.data.neighbours) == (16, 8, None)
    assert compose_verb("shard", []).resize == "none"
    assert compose_verb("shard", ["data=nuswide", "data.root=/x"]).images_per_shard == 10_000


def test_a_default_is_what_is_composed():
    composed = plain_defaults("evaluate")
    assert composed["bootstrap"] == config_class("evaluate")(out="x").bootstrap
    assert composed["out"] == "${work}/evaluation"


def test_each_config_gets_its_own_list():
    first, second = ShardConfig(), ShardConfig()
    first.splits.append("more")
    assert second.splits == ["train", "validation", "test"]
    assert key([1]).default_factory() == [1]


def test_a_verb_s_keys_import_nothing_heavy():
    """So a mistyped key or a wrong path costs no library."""
    code = (
        "import sys; from c2srt.cluster.cli import VERBS, main\n"
        "for verb in VERBS.values(): verb.keys()\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert said.stdout.decode().strip() == "[]"


def test_the_overview_imports_neither_hydra_nor_numpy():
    code = (
        "import sys; from c2srt.cluster import cli; cli.main(['--help'])\n"
        "print([name for name in ('hydra', 'omegaconf', 'numpy') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert said.stdout.decode().splitlines()[-1] == "[]"
