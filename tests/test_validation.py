"""What validation while training exports to `<out>/best`."""

import torch

from c2srt.train import inputs as train_inputs
from c2srt.train.inputs import build_model, export_weights, load_inputs
from c2srt.train.validation import Validator
from c2srt.train.world import World
from tests.train_case import make_case


def test_the_best_model_is_exported_from_what_is_loaded(tmp_path, monkeypatch):
    """The same bytes as an export that reads everything again; the CLIP is not even hashed."""
    config = make_case(tmp_path, validate_every=2)
    inputs = load_inputs(config)
    model = build_model(config, inputs)
    trained = {
        name: torch.randn_like(parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    validator, world = {}, {}
    for rank in range(2):
        world[rank] = World(rank, 2, 2, torch.device("cpu"))
        validator[rank] = Validator(config, inputs, model, world[rank])
    inputs.clip = None
    assert validator[1].clip is None, "the CLIP's memory is one rank's"
    monkeypatch.setattr(World, "gather", lambda self, value: [value])
    assert validator[0].measure(trained, world[0])["images"] == 6
    with monkeypatch.context() as patched:
        patched.setattr(train_inputs, "load_clip", lambda config: 1 / 0)
        validator[0].export(tmp_path / "best", {"step": 2})
    export_weights(tmp_path / "again", config, trained, {"step": 2})
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "best" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
