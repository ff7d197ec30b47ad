"""A training that begins with the weights of an export."""

from dataclasses import replace

import pytest
import torch

from c2srt.errors import UserError
from c2srt.export.files import identity
from c2srt.export.write import save_export
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.network import C2SRT
from c2srt.train.config import Config, from_settings
from c2srt.train.inputs import build_model, load_inputs
from c2srt.train.prepare import check_before_start
from c2srt.vocabulary import Vocabulary
from tests.tiny import random_graph, tiny_clip
from tests.train_case import make_case


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> tuple[Config, C2SRT]:
    """A training that begins with an export of other categories, and the network in that."""
    work = tmp_path_factory.mktemp("warm")
    config, clip = make_case(work), tiny_clip(work)
    torch.manual_seed(7)
    model = C2SRT(clip, replace(config.model), LossConfig(), random_graph(8, 6, 16, 4), 6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter)
    vocabulary = Vocabulary(tuple("abcdefgh"), tuple("abcdefgh"), 6)
    save_export(work / "export", model, model.state_dict(), clip, vocabulary, ["{}"], {})
    return replace(config, warm_start=str(work / "export")), model


def test_it_has_the_export_s_tower_and_head_and_its_own_categories(case):
    config, model = case
    inputs = load_inputs(config)
    begun, cold = (build_model(each, inputs) for each in (config, replace(config, warm_start=None)))
    for name, weights in model.state_dict().items():
        assert torch.equal(begun.state_dict()[name], weights)
    assert not torch.equal(next(begun.head.parameters()), next(cold.head.parameters()))
    assert len(begun.graph_on(torch.device("cpu")).text) == 13


def test_a_checkpoint_belongs_to_the_export_that_it_began_with(case):
    config, _ = case
    hashes = load_inputs(config).hashes
    assert hashes["warm_start"] == identity(config.folder.parent / "export")
    assert "warm_start" not in load_inputs(replace(config, warm_start=None)).hashes
    assert "warm_start" not in config.identity() and from_settings(config.settings()) == config
    assert "warm_start" not in replace(config, warm_start=None).settings()


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"model": ModelConfig(layers=2, heads=2)}, "is another network: head.* differ; give its"),
        ({"warm_start": "nowhere"}, "warm_start=nowhere is not an exported model"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_worker_starts(case, changes, said):
    with pytest.raises(UserError, match=said):
        check_before_start(replace(case[0], **changes))


def test_an_export_of_another_clip_is_refused(case, tmp_path):
    config, model = case
    clip = tiny_clip(config.folder.parent)
    clip.hash = "another"
    vocabulary = Vocabulary(tuple("abcdefgh"), tuple("abcdefgh"), 6)
    save_export(tmp_path / "export", model, model.state_dict(), clip, vocabulary, ["{}"], {})
    with pytest.raises(UserError, match="was trained from another CLIP"):
        check_before_start(replace(config, warm_start=str(tmp_path / "export")))
