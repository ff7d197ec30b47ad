"""A run as the tests of tracking make it."""

from pathlib import Path

import mlflow

from c2srt.tracking import Run


def run(name: str = "full", key: str = "key", parent: str | None = None, **params: object) -> Run:
    return Run("miniature", name, {"lr": 1e-3, **params}, {"world_size": "2"}, key, parent)


def folder(tmp_path: Path, name: str = "run") -> Path:
    (tmp_path / name).mkdir(exist_ok=True)
    return tmp_path / name


def runs(uri: str, experiment: str = "miniature") -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(uri)
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def points(uri: str, run_id: str, name: str = "learning/loss") -> list[tuple[int, float]]:
    return sorted(
        (metric.step, metric.value)
        for metric in mlflow.MlflowClient(uri).get_metric_history(run_id, name)
    )
