"""The kinds of model: what every one promises, and what is said of it without loading it."""

import copy
import inspect
import json
import pickle
import subprocess
import sys
from dataclasses import asdict, fields

import pytest

from c2srt.errors import UserError
from c2srt.files import hash_of
from c2srt.model.build import network_of
from c2srt.model.config import LossConfig, ModelConfig, Pooling, Unverified
from c2srt.model.kinds import DRAWN, KINDS
from c2srt.model.network import Network
from c2srt.model.student import Student

PROMISED = sorted(Student.__abstractmethods__)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_what_a_student_promises(kind):
    network = network_of(kind)
    assert issubclass(network, Network) and not network.__abstractmethods__
    assert PROMISED == ["forward", "scores", "text_gradient", "training_summary"]
    for name in PROMISED:
        promised, kept = (
            inspect.signature(getattr(owner, name)).parameters for owner in (Student, network)
        )
        assert list(promised) == list(kept)


def test_a_network_that_lacks_a_promise_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        Network(None, ModelConfig(), LossConfig(), None, 1)


def test_the_verbs_find_the_kinds_that_they_draw_and_count():
    assert DRAWN == {"model": "c2srt", "mkt": "mkt"}
    assert [name for name, kind in KINDS.items() if kind.planned] == ["c2srt"]


def test_configs_are_checked_without_torch():
    code = (
        "import sys; from c2srt.model.config import ModelConfig; ModelConfig(kind='mkt');"
        " print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert done.stdout.strip() == "False", done.stderr


def test_an_option_is_its_word_wherever_it_is_written_down():
    loss = LossConfig(unverified="ignore")
    assert loss.unverified is Unverified.IGNORE and loss.unverified == "ignore"
    written = asdict(loss)
    assert json.loads(json.dumps(written)) == written and "'ignore'" in repr(written)
    assert hash_of(written) == hash_of(json.loads(json.dumps(written)))
    for again in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), LossConfig(**written)):
        assert again == loss and again.unverified is Unverified.IGNORE
    with pytest.raises(UserError, match="model.pooling='max' is not one of mean, weighted"):
        ModelConfig(pooling="max")
    assert f"{Pooling.MEAN}" == "mean"


def test_files_list_the_fields_in_the_order_that_they_always_had():
    assert [field.name for field in fields(ModelConfig)] == [
        "kind",
        "baseline",
        "isr",
        "ist",
        "form",
        "threshold",
        "max_patches",
        "isr_scale",
        "pooling",
        "input_layers",
        "layers",
        "heads",
        "neighbours",
        "self_loops",
        "residual",
        "init",
        "score_scale",
        "trainable_blocks",
        "tile_mib",
    ]


@pytest.mark.parametrize(
    "kind, baseline, sentence",
    [
        ("mkt", {"topk": "many"}, "model.baseline.topk=many must be a whole number"),
        ("mkt", {"topk": 1.5}, "model.baseline.topk=1.5 must be a whole number"),
        ("zs_sdl", {"regulariser": None}, "model.baseline.regulariser=None must be a number"),
        ("lesa", {"rows": 3}, "model.baseline.rows is no setting of model.kind=lesa, which has"),
        ("c2srt", {"topk": 3}, "model.baseline is set, but model.kind=c2srt has nothing of it"),
    ],
)
def test_settings_are_checked_with_the_configuration(kind, baseline, sentence):
    with pytest.raises(UserError, match=sentence):
        ModelConfig(kind=kind, baseline=baseline)
