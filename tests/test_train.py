"""Whole trainings on real artefacts: two gloo ranks, and the command itself under Ray with
processes killed.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import psutil
import pytest
import torch
from safetensors.torch import load_file

from c2srt.backbone.clip import load_clip
from c2srt.cluster.train import clear, find_steps
from c2srt.errors import UserError
from c2srt.export.read import load_export
from c2srt.shards import load_index
from c2srt.train import checkpoints, finished
from c2srt.train.config import Config
from c2srt.train.prepare import already_finished, check_before_start
from tests.ranks import run_ranks
from tests.train_case import make_case, told, train_rank

STEPS = 8


def out(config: Config, name: str) -> Config:
    return replace(config, out=str(Path(config.work) / name))


def scenario(rank: int, config: Config) -> dict:
    """Several trainings in one pair of processes (importing DeepSpeed takes longer than they
    do).
    """
    found = {"whole": train_rank(rank, out(config, "whole"))}
    broken = out(config, "broken")
    for name in ("first stop", "second stop"):
        if rank == 0:
            broken.folder.mkdir(exist_ok=True)
            (broken.folder / "stop").touch()
        found[name] = train_rank(rank, told(broken, log_every=1))
        if rank == 0:
            (broken.folder / "stop").unlink()
            found[f"{name} step"] = json.loads((broken.folder / "train.json").read_text())["step"]
    found["resumed"] = train_rank(rank, broken)
    for zero in (1, 3):
        sharded = told(
            config,
            zero=zero,
            precision="bf16",
            steps=2,
            model=replace(config.model, trainable_blocks=1),
        )
        found[f"zero {zero}"] = train_rank(rank, out(sharded, f"zero-{zero}"))
    found["validated"] = train_rank(rank, out(told(config, validate_every=4, zero=3), "validated"))
    try:
        train_rank(
            rank,
            out(told(config, lr=1e30, warmup=0.0, layer_decay=1.0, max_nonfinite=3), "diverged"),
        )
    except UserError as error:
        found["diverged"] = str(error)
    return found


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Config:
    return make_case(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="module")
def trained(case) -> dict:
    found, other = run_ranks(2, scenario, case)
    assert {name: value for name, value in found.items() if not name.endswith("step")} == other
    return found


def weights(config: Config, name: str, folder: str = "model") -> bytes:
    return (Path(config.work) / name / folder / "model.safetensors").read_bytes()


def test_stopped_twice_and_resumed_equals_uninterrupted_bit_for_bit(case, trained):
    assert trained["whole"] == trained["resumed"] == "finished"
    assert trained["first stop"] == trained["second stop"] == "stopped"
    assert (trained["first stop step"], trained["second stop step"]) == (1, 2)
    assert weights(case, "whole") == weights(case, "broken")
    lines = [
        json.loads(line)
        for line in (Path(case.work) / "broken" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [1, 2, 4, 6, 8]


def test_the_export_has_learned_and_loads(case, trained):
    exported = load_export(Path(case.work) / "whole" / "model")
    clip = load_clip(case.clip)
    made = json.loads((Path(case.work) / "whole" / "model" / "config.json").read_text())
    assert exported.made_from["step"] == STEPS and made["clip"]["hash"] == clip.hash
    assert not torch.equal(exported.model.tower.proj, clip.tower.proj)


@pytest.mark.parametrize("zero", (1, 3))
def test_sharded_stages_export_every_parameter_and_frozen_ones_exactly(case, trained, zero):
    whole, sharded = (
        load_file(Path(case.work) / name / "model" / "model.safetensors")
        for name in ("whole", f"zero-{zero}")
    )
    assert set(whole) == set(sharded)
    clip = load_clip(case.clip).state_dict()
    frozen = [
        name
        for name in clip
        if "resblocks.2" not in name and "ln_post" not in name and name != "visual.proj"
    ]
    assert frozen and all(torch.equal(sharded[name], clip[name]) for name in frozen)
    trained_one = "visual.transformer.resblocks.2.mlp.c_fc.weight"
    assert not torch.equal(sharded[trained_one], clip[trained_one])


def test_export_verb_gives_the_same_weights_from_a_checkpoint(case, trained, tmp_path):
    from c2srt.cluster import export

    export.run(export.Config(str(Path(case.work) / "whole"), str(tmp_path / "again")))
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == weights(case, "whole")
    with pytest.raises(UserError, match="holds no whole checkpoint"):
        export.run(export.Config(str(tmp_path), str(tmp_path / "none")))


def test_only_the_last_checkpoints_and_the_best_export_are_kept(case, trained):
    folder = Path(case.work) / "validated"
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "step-00000006",
        "step-00000008",
    ]
    best = json.loads((folder / "train.json").read_text())["best"]
    assert best["step"] in (4, 8) and 0 < best["mAP"] <= 1
    assert load_export(folder / "best").made_from["validation"]["mAP"] == best["mAP"]


def test_one_mlflow_run_over_restarts(case, trained):
    client = mlflow.MlflowClient(f"sqlite:///{case.work}/mlflow.db")
    run_id = json.loads((Path(case.work) / "broken" / "train.json").read_text())["run_id"]
    run = client.get_run(run_id)
    assert (
        run.info.status == "FINISHED"
        and run.data.params["model.layers"] == "1"
        and run.data.tags["world_size"] == "2"
    )
    assert [metric.step for metric in client.get_metric_history(run_id, "learning/loss")] == [
        1,
        2,
        4,
        6,
        8,
    ]
    for name in (
        "learning/ranking",
        "learning/distillation",
        "learning/learning_rate",
        "learning/gradient_norm",
        "machine/images_per_s",
        "machine/data_wait_share",
        "machine/peak_rss_mib",
    ):
        assert name in run.data.metrics
    for name in ("tile_images", "tile_categories", "tile_mib", "gflop_forward", "gflop_backward"):
        assert float(run.data.params[f"head/{name}"]) > 0
    assert run.info.run_name == "broken"
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.digest == load_index(Path(case.shards)).version
    kept = {artifact.path for artifact in client.list_artifacts(run_id)}
    assert {"config.json", "inputs.json", "loss.png", "train.json"} <= kept
    assert len(client.search_runs([run.info.experiment_id])) == 6  # one for each out folder


def test_divergence_stops_with_a_sentence(trained):
    said = trained["diverged"]
    assert "3 updates in a row" in said and "lower optimizer.lr" in said


def test_a_finished_training_is_known_at_once_the_second_time(case, trained, monkeypatch):
    whole = out(case, "whole")
    monkeypatch.setattr(finished, "RACE_S", -3600.0)
    assert find_steps(whole) == (True, STEPS)
    monkeypatch.setattr("c2srt.cluster.train.check_before_start", None)
    assert find_steps(whole) == (True, STEPS)


def test_finished_is_seen_and_another_run_refused_before_any_worker_starts(case, trained):
    whole = out(case, "whole")
    assert check_before_start(whole) == STEPS and already_finished(whole, STEPS)
    named = replace(whole, tracking=replace(whole.tracking, name="longer"))
    longer = told(named, epochs=3, log_every=1)
    assert not already_finished(longer, check_before_start(longer))
    with pytest.raises(UserError, match="made with seed=0, not 1"):
        check_before_start(replace(whole, seed=1))
    with pytest.raises(UserError, match="model.score_scale=8.0, not 4.0"):
        check_before_start(replace(whole, model=replace(whole.model, score_scale=4.0)))
    for changes in (
        {"workers": 4},
        {"micro_batch": 1},
        {"zero": 3, "offload": True},
        {"record_samples": True},
    ):
        other = told(whole, **changes)
        assert check_before_start(other) == STEPS and other.hash() == whole.hash()


def test_bad_input_is_refused_before_any_worker_starts(case, tmp_path):
    fresh = out(case, "fresh")
    with pytest.raises(UserError, match="c2srt teacher"):
        check_before_start(replace(fresh, teacher=str(tmp_path)))
    with pytest.raises(UserError, match="c2srt relations"):
        check_before_start(replace(fresh, relations=str(tmp_path)))
    with pytest.raises(UserError, match="c2srt text"):
        check_before_start(replace(fresh, text=str(tmp_path)))
    with pytest.raises(UserError, match="c2srt shard"):
        check_before_start(replace(fresh, shards=str(tmp_path)))
    (tmp_path / "file").write_text("")
    cache = str(tmp_path / "file" / "cache")
    with pytest.raises(UserError, match="loader.cache=.* cannot be written"):
        check_before_start(told(fresh, **{"loader.cache": cache}))
    with pytest.raises(UserError, match="loader.cache_gb=1e-07 is less than the largest shard"):
        small = {"loader.cache": str(tmp_path / "cache"), "loader.cache_gb": 1e-7}
        check_before_start(told(fresh, **small))
    with pytest.raises(UserError, match="batch=6 is less than one image for each of 7 workers"):
        told(fresh, batch=6, workers=7)
    with pytest.raises(UserError, match="precision='fp8' is not one of"):
        told(fresh, precision="fp8")


def test_a_stop_file_of_an_earlier_call_is_removed_with_a_line(tmp_path, capsys):
    clear(tmp_path)
    assert capsys.readouterr().out == ""
    (tmp_path / "stop").touch()
    clear(tmp_path)
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path / 'stop'} is removed") and said.count("\n") == 1
    assert not (tmp_path / "stop").exists()


def test_deepspeed_gets_its_batch_size_from_ours(case):
    found = case.engine.deepspeed(case.partition, 1.0)
    assert found["train_batch_size"] == 8 and found["gradient_accumulation_steps"] == 2
    assert found["train_micro_batch_size_per_gpu"] == 2
    found = case.engine.deepspeed(replace(case, workers=3).partition, 1.0)
    assert found["train_batch_size"] == 12 and found["gradient_accumulation_steps"] == 2


# --- the command itself


def command(case: Config, name: str, *more: str) -> list[str]:
    keys = {
        "work": case.work,
        "relations": case.relations,
        "teacher": "online",
        "clip.name": case.clip.name,
        "clip.pretrained": "random",
        "out": f"{case.work}/{name}",
        "epochs": 30,
        "batch": 8,
        "micro_batch": 2,
        "loader_workers": 1,
        "lr": 1e-3,
        "head_lr": 1e-3,
        "model.layers": 1,
        "model.heads": 2,
        "checkpoint_every": 3,
        "log_every": 2,
        "checkpoints.seconds": 0,
        "tracking.seconds": 0,
        "views.count": 2,
    }
    return [
        sys.executable,
        "-m",
        "c2srt.cluster.train",
        *(f"{key}={value}" for key, value in keys.items()),
        *more,
    ]


@pytest.fixture
def start() -> Iterator[Callable[[list[str]], subprocess.Popen]]:
    """Starts commands; what still runs at the end of the test is killed."""
    started: list[subprocess.Popen] = []
    yield lambda arguments: started.append(launch(arguments)) or started[-1]
    for process in started:
        if process.poll() is None:
            kill_all(process)


def launch(arguments: list[str]) -> subprocess.Popen:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    }
    return subprocess.Popen(
        arguments,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(
    process: subprocess.Popen, case: Config, name: str, step: int, seconds: float = 400
) -> None:
    """Until the run `name` has a checkpoint of `step` or later; fails with the output if that does
    not come.
    """
    deadline = time.monotonic() + seconds
    while not any(
        int(path.name[-8:]) >= step
        for path in checkpoints.complete(Path(case.work) / name / "checkpoints")
    ):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(
                f"step {step} never came; the command said:\n{process.communicate()[0][-3000:]}"
            )
        time.sleep(0.05)


def family(process: subprocess.Popen) -> list[psutil.Process]:
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def kill_all(process: subprocess.Popen) -> None:
    for member in family(process):
        member.send_signal(signal.SIGKILL)
    process.communicate()


def ended(process: subprocess.Popen, status: int) -> str:
    said = process.communicate(timeout=400)[0]
    assert process.returncode == status, said[-3000:]
    return said


@pytest.mark.long  # in CI: a stopped rank, in tests/test_failures.py
@pytest.mark.timeout(2400)
def test_the_command_survives_kills_and_signals_bit_for_bit(case, start):
    """A worker killed, the whole job killed, SIGTERM: in the end the same bytes as without."""
    said = ended(start(command(case, "calm")), 0)
    assert "images/s" in said and "accumulated" in said and "finished" in said

    process = start(command(case, "storm"))
    wait_for(process, case, "storm", 3)
    next(p for p in family(process)[1:] if "RayTrainWorker" in " ".join(p.cmdline())).kill()
    wait_for(process, case, "storm", 18)
    time.sleep(random.random())
    kill_all(process)

    done = int(checkpoints.complete(Path(case.work) / "storm" / "checkpoints")[-1].name[-8:])
    process = start(command(case, "storm"))
    wait_for(process, case, "storm", done + 6)
    process.send_signal(signal.SIGTERM)
    assert "run the same command to go on" in ended(process, 75)

    ended(start(command(case, "storm")), 0)
    assert weights(case, "calm") == weights(case, "storm")
    assert "nothing to do" in ended(start(command(case, "storm")), 0)
