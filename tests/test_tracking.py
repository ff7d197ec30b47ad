"""The MLflow record on a real sqlite store, and what happens when the store is broken."""

import os

import mlflow
import pytest

from c2srt.tracking import Tracker, git_commit, job_tags


@pytest.fixture
def uri(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_one_run_over_restarts(uri, tmp_path):
    figure = tmp_path / "loss.txt"
    figure.write_text("a figure")
    first = Tracker(uri, "miniature", "full", {"lr": 1e-3, **{f"p{i}": i for i in range(150)}}, {"world_size": 2})
    first.metrics({"loss": 2.0}, 10)
    first.close("KILLED")
    second = Tracker(uri, "miniature", "full", {"lr": 5.0}, {"world_size": 2}, first.run_id)
    second.metrics({"loss": 1.0, "lr": 0.1}, 20)
    second.artifact(figure, "figures")
    second.close()
    assert second.run_id == first.run_id
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("miniature")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1 and runs[0].info.status == "FINISHED"
    assert runs[0].data.params["lr"] == "0.001" and len(runs[0].data.params) == 151
    assert [(m.step, m.value) for m in client.get_metric_history(first.run_id, "loss")] == [(10, 2.0), (20, 1.0)]
    assert (tmp_path / "mlartifacts" / first.run_id / "artifacts" / "figures" / "loss.txt").read_text() == "a figure"


def test_the_store_is_not_exported_to_later_jobs(uri, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Tracker(uri, "miniature", None, {}, {}).close()
    assert "MLFLOW_TRACKING_URI" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///the-users-own.db")
    Tracker(uri, "miniature", None, {}, {}).close()
    assert os.environ["MLFLOW_TRACKING_URI"] == "sqlite:///the-users-own.db"


def test_a_lost_run_is_replaced_with_a_warning(uri, capsys):
    tracker = Tracker(uri, "miniature", None, {}, {}, "0" * 32)
    tracker.close()
    assert tracker.run_id not in (None, "0" * 32)
    assert "does not know run" in capsys.readouterr().err


def test_a_broken_store_warns_once_and_stops_nothing(tmp_path, capsys):
    broken = tmp_path / "mlflow.db"
    broken.write_bytes(b"not a database" * 100)
    tracker = Tracker(f"sqlite:///{broken}", "miniature", None, {"lr": 1}, {})
    for step in range(5):
        tracker.metrics({"loss": 1.0}, step)
    tracker.artifact(broken)
    tracker.close()
    assert tracker.run_id is None
    assert capsys.readouterr().err.count("failed") == 1


def test_an_unreachable_server_is_given_up_in_seconds(capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = Tracker("http://127.0.0.1:9", "miniature", None, {}, {})
    assert tracker.run_id is None and "goes on without it" in capsys.readouterr().err


def test_tags_name_the_job(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert job_tags()["slurm_job_id"] == "77"
    assert git_commit(tmp_path) is None
