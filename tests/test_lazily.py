"""What other libraries import without our need is loaded when it is used, and works then."""

import gc
import importlib
import subprocess
import sys
from importlib.util import find_spec
from textwrap import dedent

import pytest
import torch

from c2srt.backbone import library
from c2srt.lazily import LazyModule, compiler_when_needed, lazily, uncollected, without_compiler
from tests.shard_folder import make_shards, make_vocabulary


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """A module that counts in `sys` how often it was loaded."""
    (tmp_path / "counted.py").write_text(
        "import sys\nsys.loads = getattr(sys, 'loads', 0) + 1\n"
        "def double(x):\n    return 2 * x\nNAME = 'counted'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "loads", 0, raising=False)
    yield
    sys.modules.pop("counted", None)


def test_a_lazy_module_is_loaded_by_a_call_or_by_another_name(counted):
    with lazily({"counted": ("double",)}):
        import counted as lazy
        from counted import double
    assert isinstance(lazy, LazyModule) and sys.loads == 0
    assert double(4) == 8 and lazy.double(5) == 10 and lazy.NAME == "counted" and sys.loads == 1
    with pytest.raises(AttributeError):
        _ = lazy.missing


def test_a_name_that_is_not_listed_loads_the_module_at_once(counted):
    with lazily({"counted": ("double",)}):
        from counted import NAME
    assert NAME == "counted" and sys.loads == 1


def test_afterwards_an_import_finds_the_module_itself(counted):
    with lazily({"counted": ()}):
        assert isinstance(sys.modules["counted"], LazyModule)
    assert "counted" not in sys.modules
    import counted as real

    assert not isinstance(real, LazyModule)
    with lazily({"counted": ()}):
        assert sys.modules["counted"] is real  # loaded before: it stays
    assert sys.modules["counted"] is real


def test_whoever_asks_whether_a_library_is_there_loads_none(counted):
    """As transformers asks for timm, while open_clip imports it."""
    with lazily({"counted": ()}):
        assert find_spec("counted").name == "counted" and sys.loads == 0


def test_garbage_is_collected_afterwards_if_it_was_before():
    with pytest.raises(ImportError), uncollected():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def in_python(code: str) -> None:
    """Runs code in an interpreter of its own, since this one may have loaded anything."""
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_neither_open_clip_nor_deepspeed_loads_what_is_not_used():
    in_python("""
        import sys
        from c2srt.backbone import library
        from c2srt.train.engine import GuardedAdamW
        import torch
        config = library.model_config("ViT-B-32") | {"embed_dim": 8}
        library.build(config)
        library.outline(config)
        weight = torch.nn.Parameter(torch.ones(3))
        adamw = GuardedAdamW([{"params": [weight], "lr": 0.1}], 1.0)
        adamw.begin(torch.device("cpu"))
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        weight.sum().backward()
        adamw.add()
        adamw.step()
        adamw.zero_grad()
        assert weight.max() < 1 and weight.grad is None
        import deepspeed.runtime.zero.muon.muon_optimizer as muon
        assert not isinstance(adamw, muon.MuonWithAuxAdam)  # as every ZeRO stage asks
        loaded = [name for name in ("torch._dynamo", "timm", "mlflow") if name in sys.modules]
        assert not loaded, loaded
    """)


def test_a_shard_is_read_without_pandas(tmp_path):
    make_shards(tmp_path, {"train": 3}, 3, make_vocabulary())
    in_python(f"""
        import sys
        from pathlib import Path
        from c2srt.shard_reader import ShardReader
        from c2srt.shards import load_index
        folder = Path({str(tmp_path)!r})
        (shard,) = load_index(folder).split("train")
        reader = ShardReader(folder, shard)
        assert len(reader) == len(reader.ids) == 3 and reader.jpeg(2) and reader.labels(2).positive
        assert "pandas" not in sys.modules
    """)


def test_what_was_not_loaded_works_as_soon_as_it_is_used():
    in_python("""
        from c2srt.backbone import library
        from c2srt.train.engine import GuardedAdamW
        import open_clip, torch, torchvision
        tiny = {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none"}
        vision = library.model_config("ViT-B-16-SigLIP")["vision_cfg"] | tiny | {"image_size": 160}
        tower = open_clip.model._build_vision_tower(64, vision)
        assert tower(torch.zeros(1, 3, 160, 160)).shape[0] == 1
        import timm, timm.layers
        assert open_clip.timm_model.Mlp(4)(torch.zeros(1, 4)).shape == (1, 4)
        assert isinstance(tower.trunk, timm.models.VisionTransformer)
        weight = torch.nn.Parameter(torch.ones(3))
        adamw = GuardedAdamW([{"params": [weight], "lr": 0.1}], 1.0)
        doubled = torch.compile(lambda x: 2 * x, backend="eager", fullgraph=True)
        assert doubled(torch.ones(2)).tolist() == [2, 2]
        adamw.zero_grad()
        boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])
        assert torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), boxes, 2).shape == (1, 1, 2, 2)
        import mlflow
        assert mlflow.__version__ and mlflow.MlflowClient
    """)


def test_a_method_takes_torchs_own_way_once_the_compiler_is_loaded(monkeypatch):
    calls = []

    class Some:
        @torch._disable_dynamo
        def method(self) -> int:
            calls.append(self)
            return len(calls)

    without_compiler(Some.method)
    function = Some.method.__wrapped__
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "torch._dynamo", raising=False)
        assert Some().method() == 1
        assert "torch._dynamo" not in sys.modules
    importlib.import_module("torch._dynamo")
    ours = function.__dynamo_disable
    assert Some().method() == 2 and Some().method() == 3
    assert function.__dynamo_disable is not ours


def test_a_function_is_compiled_by_its_first_call(monkeypatch):
    compiled = []

    def at_once(function, **options):
        compiled.append((function.__name__, options))
        return function

    monkeypatch.setattr(torch, "compile", at_once)
    with compiler_when_needed():

        @torch.compile
        def double(x):
            return 2 * x

        @torch.compile(backend="eager")
        def half(x, by=2):
            return x / by

    assert torch.compile is at_once and double.__name__ == "double" and not compiled
    assert (double(2), double(3), half(6, by=3)) == (4, 6, 2)
    assert compiled == [("double", {}), ("half", {"backend": "eager"})]


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-16-SigLIP2-512", "ViT-H-14-CLIPA", "RN50"])
def test_an_outline_has_the_shapes_of_the_model_on_the_meta_device(name):
    config = library.model_config(name)
    with torch.device("meta"):
        whole = library.build(config)
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in whole.state_dict().items()}
    found = library.outline(config).state_dict()
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in found.items()} == expected
    assert all(tensor.is_meta for tensor in found.values())
