"""The MLflow record on real stores, a sqlite file and a server: restarts, kills, outages, groups of
runs, and secrets.
"""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import mlflow
import pytest
from mlflow.store.artifact import local_artifact_repo

from c2srt.tracking import DataSet, Tracker, git_commit, job_tags, sender, sending, unsent
from c2srt.tracking.mlflow_sink import UPLOADING, MLflowSink
from tests.mlflow_server import Server
from tests.ranks import run_ranks
from tests.senders import forked
from tests.tracked import folder, points, run, runs


@pytest.fixture(autouse=True)
def quick_senders(monkeypatch) -> None:
    monkeypatch.setattr(sending, "started", forked)


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    """A database with MLflow's tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(tmp_path, empty) -> str:
    shutil.copy(empty, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


def killed(action) -> None:
    """Runs `action` in a process that then kills itself."""
    child = os.fork()
    if child == 0:
        action()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def recorded_between(before: float, stamp_ms: int, after: float) -> bool:
    """Whether MLflow's time of an event, in whole milliseconds, lies between two looks at the
    clock.
    """
    return int(before * 1000) <= stamp_ms <= after * 1000


def waited(tracker: Tracker) -> float:
    """Closes it; returns the seconds that it waited, as it counts them: what a busy machine adds is
    not in them.
    """
    waits, join = [], tracker.sender.join
    tracker.sender.join = lambda seconds: waits.append(seconds) or join(seconds)
    tracker.close()
    return sum(waits)


def until(condition, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


# --- one run


def test_one_run_over_restarts(uri, tmp_path):
    where, before = folder(tmp_path), time.time()
    (where / "loss.txt").write_text("a figure")
    first = Tracker(where, uri, run(**{f"p{i}": i for i in range(150)}))
    after = time.time()
    first.metrics({"loss": 2.0}, 10)
    first.close("KILLED")
    assert runs(uri)[0].info.status == "KILLED"
    second = Tracker(where, uri, run(lr=5.0))
    second.metrics({"loss": 1.0, "lr": 0.1}, 20)
    second.artifact(where / "loss.txt", "figures")
    second.close()
    (found,) = runs(uri)
    assert found.info.status == "FINISHED" and found.info.run_id == first.run_id == second.run_id
    assert found.data.params["lr"] == "0.001" and len(found.data.params) == 151
    assert (
        recorded_between(before, found.info.start_time, after)
        and found.info.end_time > found.info.start_time
    )
    assert points(uri, second.run_id) == [(10, 2.0), (20, 1.0)]
    assert (
        tmp_path / "mlartifacts" / first.run_id / "artifacts/figures/loss.txt"
    ).read_text() == "a figure"
    assert not unsent(where)


def test_what_a_killed_upload_left_in_a_local_store_goes_with_the_next(uri, tmp_path):
    where = folder(tmp_path)
    (where / "loss.txt").write_text("a figure")
    first = Tracker(where, uri, run())
    first.close("KILLED")
    place = tmp_path / "mlartifacts" / first.run_id / "artifacts/figures"
    place.mkdir(parents=True)
    (place / f"{UPLOADING}abc").write_text("a fig")
    assert UPLOADING == local_artifact_repo._TEMP_ARTIFACT_PREFIX
    second = Tracker(where, uri, run())
    second.artifact(where / "loss.txt", "figures")
    second.close()
    assert [path.name for path in place.iterdir()] == ["loss.txt"]


def test_a_kill_before_anything_was_sent_costs_nothing(uri, tmp_path):
    """Also before the first checkpoint: what tells the run is in the folder from the first moment
    on.
    """
    where = folder(tmp_path)
    for step in (1, 2):
        killed(lambda step=step: Tracker(where, uri, run()).metrics({"loss": float(step)}, step))
    last = Tracker(where, uri, run())
    assert last.new({"loss": 0.0, "other": 0.0}, 2) == {"other": 0.0}
    assert last.new({"loss": 0.0}, 3) == {"loss": 0.0}
    last.close()
    (found,) = runs(uri)
    assert points(uri, found.info.run_id) == [(1, 1.0), (2, 2.0)]


def test_what_was_sent_but_not_noted_is_not_doubled(uri, tmp_path):
    where = folder(tmp_path)
    first = Tracker(where, uri, run())
    first.metrics({"loss": 1.0, "nan": float("nan")}, 1)
    first.metrics({"loss": 2.0}, 2)
    first.close()
    state = json.loads((where / "run.json").read_text())
    for run_id in (
        state["run_id"],
        None,
    ):  # a kill before the note of the last batch, and before that of the run
        (where / "run.json").write_text(json.dumps(state | {"sent": 0, "run_id": run_id}))
        assert unsent(where)
        Tracker(where).close(None)
        (found,) = runs(uri)
        assert (
            points(uri, found.info.run_id) == [(1, 1.0), (2, 2.0)]
            and len(points(uri, found.info.run_id, "learning/nan")) == 1
        )
        assert found.info.status == "FINISHED"


def test_another_configuration_in_the_folder_is_another_run(uri, tmp_path):
    for key in ("first", "second"):
        tracker = Tracker(folder(tmp_path), uri, run(key=key, key_is=key))
        tracker.metrics({"loss": 1.0}, 1)
        tracker.close()
    assert sorted(one.data.params["key_is"] for one in runs(uri)) == ["first", "second"]


def test_the_run_of_a_checkpoint_alone_goes_on(uri, tmp_path):
    first = Tracker(folder(tmp_path), uri, run())
    first.close("KILLED")
    shutil.rmtree(tmp_path / "run")
    second = Tracker(folder(tmp_path), uri, run(), first.run_id)
    assert second.run_id == first.run_id
    second.close()
    assert [one.info.status for one in runs(uri)] == ["FINISHED"]


def test_a_lost_run_and_another_store_get_the_whole_record(uri, tmp_path, empty, capsys):
    first = Tracker(folder(tmp_path), uri, run())
    first.metrics({"loss": 1.0}, 1)
    first.close()
    shutil.copy(empty, tmp_path / "mlflow.db")
    second = Tracker(folder(tmp_path), uri, run())
    second.metrics({"loss": 2.0}, 2)
    second.close()
    assert "does not know run" in capsys.readouterr().err
    shutil.copy(empty, tmp_path / "other.db")
    third = Tracker(folder(tmp_path), f"sqlite:///{tmp_path}/other.db", run())
    third.close()
    for store, tracker in ((uri, second), (third.uri, third)):
        (found,) = runs(store)
        assert found.info.run_id == tracker.run_id and points(store, tracker.run_id) == [
            (1, 1.0),
            (2, 2.0),
        ]


def test_a_broken_store_warns_once_and_stops_nothing(tmp_path, capsys):
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 100)
    tracker = Tracker(folder(tmp_path), f"sqlite:///{tmp_path}/mlflow.db", run())
    for step in range(5):
        tracker.metrics({"loss": 1.0}, step)
    tracker.close()
    said = capsys.readouterr().err
    assert tracker.run_id is None and said.count("fails") == 1 and "7 entries did not reach" in said


def test_a_refused_entry_and_a_torn_line_hold_up_nothing(uri, tmp_path, capsys):
    where = folder(tmp_path)
    first = Tracker(where, uri, run())
    first.metrics({"what?": 1.0}, 1)
    first.artifact(where / "absent.png")
    first.close("KILLED")
    with (where / "tracking.jsonl").open("a") as file:
        file.write('{"metrics": {"loss": 1')
    second = Tracker(where, uri, run())
    second.metrics({"loss": 2.0}, 2)
    second.close()
    assert points(uri, second.run_id) == [(2, 2.0)] and not unsent(where)
    assert capsys.readouterr().err.count("left out") == 2


def test_the_store_is_not_exported_to_later_jobs(uri, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Tracker(folder(tmp_path), uri, run()).close()
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_tags_name_the_job(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert job_tags()["slurm_job_id"] == "77"
    assert git_commit(tmp_path) is None


# --- groups of runs


def test_trainings_that_start_together_share_one_parent(uri, tmp_path):
    """Several times over: made once, found again, FINISHED when its children are."""
    trackers = []
    threads = [
        Thread(
            target=lambda seed=seed: trackers.append(
                Tracker(
                    folder(tmp_path, f"seed-{seed}"), uri, run(f"seed-{seed}", parent="it's all")
                )
            )
        )
        for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: all(tracker.run_id for tracker in trackers))
    until(lambda: all(tracker.sender.joined for tracker in trackers))
    trackers[0].close("KILLED")
    parent = next(one for one in runs(uri) if one.info.run_name == "it's all")
    assert parent.info.status == "RUNNING"
    for tracker in trackers[1:]:
        tracker.close()
    again = Tracker(folder(tmp_path, "seed-9"), uri, run("seed-9", parent="it's all"))
    again.close()
    found = runs(uri)
    assert len(found) == 6 and [one.info.run_name for one in found].count("it's all") == 1
    parents = {
        one.data.tags.get("mlflow.parentRunId") for one in found if one.info.run_name != "it's all"
    }
    assert parents == {parent.info.run_id}
    assert mlflow.MlflowClient(uri).get_run(parent.info.run_id).info.status == "FINISHED"


def test_a_parent_carries_what_its_children_share(uri, tmp_path):
    """Means of what all finished ones have, source, commit and data set; once more after an
    evaluation.
    """
    data = DataSet("miniature", "1f", "/data/shards", 30)
    for seed, loss in enumerate((1.0, 3.0)):
        opening = replace(run(f"seed-{seed}", parent="full"), data=data)
        tracker = Tracker(folder(tmp_path, f"seed-{seed}"), uri, opening)
        tracker.metrics({"loss": 9.0, "only": 1.0} if seed else {"loss": 9.0}, 1)
        tracker.metrics({"loss": loss}, 2)
        tracker.params({"head/tile_images": 8, "lr": 5.0})
        tracker.close()
    parent = next(one for one in runs(uri) if one.info.run_name == "full")
    assert parent.data.metrics == {"learning/loss": 2.0}
    assert points(uri, parent.info.run_id) == [(1, 1.0), (2, 2.0)]
    child = next(one for one in runs(uri) if one.info.run_name == "seed-0")
    for tag in ("mlflow.user", "mlflow.source.name", "mlflow.source.git.commit"):
        assert parent.data.tags[tag] == child.data.tags[tag]
    for found in (parent, child):
        (known,) = found.inputs.dataset_inputs
        assert (known.dataset.name, known.dataset.digest) == ("miniature", "1f")
        assert json.loads(known.dataset.source) == {"uri": "/data/shards"}
    assert (child.data.params["head/tile_images"], child.data.params["lr"]) == ("8", "0.001")
    for seed in range(2):
        added = Tracker(tmp_path / f"seed-{seed}")
        added.metrics({"test/ZSL_mAP": 0.2 + seed / 5}, 2, mark="results")
        added.close(None)
    parent = next(one for one in runs(uri) if one.info.run_name == "full")
    assert parent.data.metrics == {"learning/loss": 2.0, "test/ZSL_mAP": pytest.approx(0.3)}


# --- nodes


def record_on_two_nodes(rank: int, where: Path, uri: str) -> None:
    import torch

    from c2srt.train.engine import Update
    from c2srt.train.recorder import Recorder
    from c2srt.train.world import World

    socket.gethostname = lambda: f"node-{rank}"
    tracker = Tracker(where, uri, run()) if rank == 0 else None
    recorder = Recorder(where, World(rank, 2, 1, torch.device("cpu")), tracker, 0, 2, 4)
    for step in (1, 2):
        recorder.add(Update({"loss": 1.0 + rank}, True, 0.5), 1e-3)
        recorder.flush(step)
    if tracker:
        tracker.close()


def test_nodes_are_summed_up_in_one_run(uri, tmp_path):
    run_ranks(2, record_on_two_nodes, folder(tmp_path), uri)
    (found,) = runs(uri)
    assert found.data.metrics["learning/loss"] == 1.5
    for kind in (
        "cpu_utilization_percentage",
        "system_memory_usage_percentage",
        "network_receive_megabytes_per_s",
    ):
        least, mean, most = (
            found.data.metrics[f"system/{kind}/{name}"] for name in ("min", "mean", "max")
        )
        assert 0 <= least <= mean <= most
    memory = points(uri, found.info.run_id, "system/system_memory_usage_megabytes/mean")
    assert [step for step, _ in memory] == [1, 2] and all(value > 100 for _, value in memory)


# --- a server that fails


@pytest.fixture(scope="module")
def server(tmp_path_factory, empty):
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty, folder / "mlflow.db")
    server = Server(folder)
    yield server
    server.kill()


def test_a_server_that_is_down_frozen_and_back_gets_everything_in_the_end(
    server, tmp_path, monkeypatch, capsys
):
    """Down at the start, up, frozen, up, killed at the end, and up for the next command: nothing is
    lost or doubled, times are those of the events.
    """
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    for name in ("PAUSE_S", "FIRST_WAIT_S", "LONGEST_WAIT_S"):
        monkeypatch.setattr(sender, name, 0.2)
    where, step, times, before = folder(tmp_path), 0, [], time.time()
    tracker = Tracker(where, server.uri, run())
    opened = before, time.time()

    def work(steps: int) -> None:
        nonlocal step
        first = step + 1
        for step in range(first, first + steps):
            before = time.time()
            tracker.metrics({"loss": float(step)}, step)
            times.append((before, time.time()))
            time.sleep(0.01)

    work(20)
    until(lambda: tracker.sender.failing)
    assert tracker.run_id is None
    server.start()
    until(lambda: tracker.run_id and not tracker.left())
    server.signal(signal.SIGSTOP)
    work(20)
    until(lambda: tracker.sender.failing)
    server.signal(signal.SIGCONT)
    until(lambda: not tracker.left())
    work(5)
    until(lambda: not tracker.left())
    server.kill()
    work(20)
    assert waited(tracker) < 10
    assert "21 entries did not reach" in capsys.readouterr().err
    server.start()
    Tracker(where).close(None)
    (found,) = runs(server.uri)
    assert points(server.uri, found.info.run_id) == [(one, float(one)) for one in range(1, 66)]
    assert found.info.status == "FINISHED" and recorded_between(
        opened[0], found.info.start_time, opened[1]
    )
    history = mlflow.MlflowClient(server.uri).get_metric_history(found.info.run_id, "learning/loss")
    for metric in history:
        before, after = times[metric.step - 1]
        assert recorded_between(before, metric.timestamp, after)


def test_no_call_waits_for_what_is_being_sent(uri, tmp_path, monkeypatch):
    """The first batch is on its way, and stays so, while more is recorded."""
    fork = multiprocessing.get_context("fork")
    send, on_its_way, answered = MLflowSink.send, fork.Event(), fork.Event()

    def held(*arguments) -> None:
        on_its_way.set()
        answered.wait()
        send(*arguments)

    monkeypatch.setattr(MLflowSink, "send", held)
    monkeypatch.setattr(sender, "PAUSE_S", 0.05)
    tracker = Tracker(folder(tmp_path), uri, run())
    tracker.metrics({"loss": 1.0}, 1)
    assert on_its_way.wait(300)
    for step in range(2, 22):
        tracker.metrics({"loss": float(step)}, step)
    assert tracker.left() >= 21
    answered.set()
    until(lambda: not tracker.left())
    tracker.close()
    assert points(uri, tracker.run_id) == [(step, float(step)) for step in range(1, 22)]


def test_a_frozen_server_holds_the_end_up_for_seconds_only(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(sender, "PAUSE_S", 0.2)
    if server.process is None:
        server.start()
    server.signal(signal.SIGSTOP)
    try:
        tracker = Tracker(folder(tmp_path), server.uri, run("frozen"))
        until(lambda: tracker.sender.failing)
        assert waited(tracker) < 8
    finally:
        server.signal(signal.SIGCONT)
    assert "did not reach" in capsys.readouterr().err
    Tracker(tmp_path / "run").close(None)
    assert [one.info.run_name for one in runs(server.uri)].count("frozen") == 1
