"""The record of a run in MLflow (the only file that imports mlflow). A store that fails never stops the work.

Rank 0 alone opens a run; its id lives in the checkpoints, so a restarted job goes on with the same run.
"""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Sensible only for a program that must not wait: a store that is away is given up after seconds, not minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")

import mlflow
import mlflow.utils.time
from mlflow.entities import Metric, Param

logging.getLogger("mlflow").setLevel(logging.WARNING)  # it announces its system metrics thread and every schema migration

SQLITE = "sqlite:///"
PARAMS_AT_ONCE, VALUE_LENGTH = 100, 500
GIVE_UP_AFTER = 3


class Tracker:
    """One MLflow run. `run_id` is None when the store could not be reached.

    `run_id` given: that run goes on (a new one is opened, with a warning, if the store does not know it). Every method
    may be called whatever the store's state: the first failure is printed, and after three in a row no more is tried.
    """

    def __init__(self, uri: str, experiment: str, name: str | None, params: dict[str, Any], tags: dict[str, Any],
                 run_id: str | None = None) -> None:
        self.uri, self.run_id, self.failures, self.warned = uri, None, 0, False
        self._try(lambda: self._open(experiment, name, params, {key: str(value) for key, value in tags.items()}, run_id))

    def _open(self, experiment: str, name: str | None, params: dict[str, Any], tags: dict[str, str], run_id: str | None) -> None:
        point_mlflow_at(self.uri)
        mlflow.set_system_metrics_node_id(os.environ.get("MLFLOW_SYSTEM_METRICS_NODE_ID", socket.gethostname()))
        self._client = mlflow.MlflowClient(self.uri)
        if run_id is not None and not self._knows(run_id):
            print(f"tracking: {self.uri} does not know run {run_id}; a new run is opened", file=sys.stderr)
            run_id = None
        fresh = run_id is None
        system = os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true").lower() != "false"
        run = mlflow.start_run(run_id, self._experiment(experiment) if fresh else None, name if fresh else None,
                               log_system_metrics=system)
        self.run_id = run.info.run_id
        mlflow.set_tags(tags)
        if fresh:
            self._params(params)

    def _knows(self, run_id: str) -> bool:
        try:
            return self._client.get_run(run_id).info.lifecycle_stage == "active"
        except mlflow.exceptions.MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _experiment(self, name: str) -> str:
        """Id of the experiment, made if absent; next to a sqlite file its artifacts lie beside the file."""
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        beside = Path(self.uri.removeprefix(SQLITE)).absolute().parent / "mlartifacts"
        return self._client.create_experiment(name, artifact_location=beside.as_uri() if self.uri.startswith(SQLITE) else None)

    def _params(self, params: dict[str, Any]) -> None:
        listed = [Param(key, str(value)[:VALUE_LENGTH]) for key, value in params.items()]
        for start in range(0, len(listed), PARAMS_AT_ONCE):
            self._client.log_batch(self.run_id, params=listed[start : start + PARAMS_AT_ONCE])

    def metrics(self, values: dict[str, float], step: int) -> None:
        now = mlflow.utils.time.get_current_time_millis()
        batch = [Metric(name, float(value), now, step) for name, value in values.items()]
        self._try(lambda: self.run_id and self._client.log_batch(self.run_id, metrics=batch))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copies a file into the run's artifacts."""
        self._try(lambda: self.run_id and self._client.log_artifact(self.run_id, str(path), folder))

    def close(self, status: str = "FINISHED") -> None:
        """FINISHED, FAILED, or KILLED (stopped early, goes on later)."""
        self._try(lambda: self.run_id and mlflow.end_run(status))

    def _try(self, action: Callable[[], Any]) -> None:
        if self.failures >= GIVE_UP_AFTER:
            return
        try:
            action()
            self.failures = 0
        except Exception as error:  # whatever a store, a proxy or a driver raises: the training matters more
            self.failures += 1
            if not self.warned:
                self.warned = True
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                print(f"tracking: MLflow at {self.uri} failed ({reason}); the run goes on without it", file=sys.stderr)


def point_mlflow_at(uri: str) -> None:
    """Sets MLflow's store for this process only: MLflow would also export it, and the next job started from here, with a
    folder of its own, would take it for the user's MLFLOW_TRACKING_URI."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before


def job_tags() -> dict[str, str]:
    """What identifies the code and the job: git commit of the package, Slurm ids, host."""
    tags = {"host": socket.gethostname()}
    for tag, variable in (("slurm_job_id", "SLURM_JOB_ID"), ("slurm_restart_count", "SLURM_RESTART_COUNT"),
                          ("slurm_nodes", "SLURM_NODELIST")):
        if variable in os.environ:
            tags[tag] = os.environ[variable]
    commit = git_commit(Path(__file__).parent)
    return tags | ({"git_commit": commit} if commit else {})


def git_commit(folder: Path) -> str | None:
    """The commit of the repository that `folder` lies in, or None without git or repository."""
    try:
        found = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def how_to_open(uri: str) -> str:
    """The two lines that show the run in a browser."""
    return f"mlflow ui --backend-store-uri {uri} --port 5000\n# then open http://127.0.0.1:5000"
