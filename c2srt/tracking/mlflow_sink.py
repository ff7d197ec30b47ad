"""MLflow's side of a run (the only file that imports mlflow): everything goes through a client with
an address of its own. Every method may be repeated without harm.
"""

import json
import logging
import os
import shlex
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from c2srt.opened import read_json
from c2srt.tracking.job import home_for_imports, user_name
from c2srt.tracking.sections import in_section
from c2srt.tracking.served import SERVED_BY, requirement

# Sensible only for a sender that tries again itself: a request that is not answered is given up
# after seconds.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
# MLflow asks where home is as soon as it is imported; a container's user may have neither HOME nor
# a name.
with home_for_imports():
    import mlflow
    import mlflow.pyfunc
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException, RestException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, DataType, Object, Property
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from c2srt.files import hash_of
from c2srt.hints import Command, shell
from c2srt.redact import redacted
from c2srt.tracking.sink import DESCRIPTION, NeedsHelp
from c2srt.tracking.sqlite import path_of

logging.getLogger("mlflow").setLevel(logging.ERROR)  # it announces every schema migration

PARAMS_AT_ONCE, METRICS_AT_ONCE, VALUE_LENGTH = 100, 1000, 500
TOKEN, GROUP, PARENT = "c2srt.token", "c2srt.group", "mlflow.parentRunId"
TAGS = {DESCRIPTION: "mlflow.note.content"}
"""Tags that MLflow has under a name of its own."""
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's pages those of model training: else they guess that this is about language models.
"""
SETTLE_S = 1.0
"""How long after making a parent run one looks whether another training made it at the same time.
"""
REFUSALS = (
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "INVALID_STATE",
    "BAD_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
)
UPLOADING = ".artifact.uploading."
"""How MLflow's LocalArtifactRepository names a file that is not whole yet."""


class MLflowSink:
    """An MLflow store; the paths of journal entries are relative to `folder`."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri, self.folder = uri, folder
        self._made: mlflow.MlflowClient | None = None

    @property
    def client(self) -> mlflow.MlflowClient:
        """Made when first needed: it opens a database at once."""
        if self._made is None:
            point_mlflow_at(self.uri)
            self._made = mlflow.MlflowClient(self.uri, self.uri)
        return self._made

    def refused(self, error: Exception) -> bool:
        """Whether an error is due to what was sent, and sending it again would not help.

        A server's own errors are RestExceptions: a proxy's page of a server that is away is not
        taken for its word.
        """
        if isinstance(error, FileNotFoundError):
            return True
        own = isinstance(error, RestException) or not self.uri.startswith("http")
        return isinstance(error, MlflowException) and error.error_code in (
            REFUSALS if own else REFUSALS[:1]
        )

    def knows(self, run_id: str) -> bool:
        try:
            return self.client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException as error:
            if self.refused(error):
                return False
            raise

    # --- runs

    def open(self, opening: dict[str, Any]) -> str:
        """The id of the run with this opening's token, made if absent, with all its parameters."""
        experiment = self.experiment(opening["experiment"])
        source = {
            "mlflow.user": user_name(),
            "mlflow.source.name": "c2srt",
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": opening["tags"].get("git_commit", ""),
        }
        tags = tags_of(opening) | source
        if opening["parent"]:
            tags[PARENT] = self.parent(experiment, opening["parent"], source, opening["time"])
            self.client.update_run(tags[PARENT], "RUNNING")
        run_id = self.find_or_create(
            experiment, TOKEN, opening["token"], opening["name"], tags, opening["time"]
        )
        listed = [Param(name, value[:VALUE_LENGTH]) for name, value in opening["params"].items()]
        for start in range(0, len(listed), PARAMS_AT_ONCE):
            self.client.log_batch(run_id, params=listed[start : start + PARAMS_AT_ONCE])
        if opening.get("data"):  # journals of earlier versions have none
            for one in [run_id, tags[PARENT]] if opening["parent"] else [run_id]:
                self.client.log_inputs(one, [data_input(**opening["data"])])
        return run_id

    def experiment(self, name: str) -> str:
        """Id of the experiment, made if absent; next to a sqlite file its artifacts lie beside the
        file.

        Raises NeedsHelp if it was deleted: its name stays taken.
        """
        if found := self.client.get_experiment_by_name(name):
            if found.lifecycle_stage != "active":
                restore = shell("mlflow", "experiments", "restore", "-x", found.experiment_id)
                raise NeedsHelp(
                    f"the experiment {name!r} was deleted in MLflow: bring it back with"
                    f" `MLFLOW_TRACKING_URI={shlex.quote(redacted(self.uri))} {restore}`, or choose"
                    " another: tracking.experiment=…"
                )
            return found.experiment_id
        file = path_of(self.uri)
        beside = (file.parent / "mlartifacts").as_uri() if file else None
        try:
            return self.client.create_experiment(name, beside, KIND)
        except MlflowException:  # another training of the same sweep was faster
            if found := self.client.get_experiment_by_name(name):
                return found.experiment_id
            raise

    def parent(self, experiment: str, name: str, tags: dict[str, str], time_ms: int) -> str:
        """Id of the run that groups the trainings of one name: made once, also by several that
        start together.

        MLflow has no "create unless it exists": whoever makes one looks again a little later, and
        all take the first of those that they see then; who made another one deletes it.
        """
        value = hash_of(name)
        made = self.find_or_create(experiment, GROUP, value, name, tags, time_ms)
        time.sleep(SETTLE_S)
        chosen = self.find(experiment, GROUP, value)[0]
        if made != chosen and not self.client.search_runs(
            [experiment], f"tags.`{PARENT}` = '{made}'", max_results=1
        ):
            self.client.delete_run(made)
        return chosen

    def find_or_create(
        self,
        experiment: str,
        tag: str,
        value: str,
        name: str | None,
        tags: dict[str, str],
        time_ms: int,
    ) -> str:
        if found := self.find(experiment, tag, value):
            return found[0]
        return self.client.create_run(experiment, time_ms, tags | {tag: value}, name).info.run_id

    def find(self, experiment: str, tag: str, value: str) -> list[str]:
        """Ids of the active runs with a tag, oldest first."""
        found = self.client.search_runs(
            [experiment], f"tags.`{tag}` = '{value}'", order_by=["attributes.start_time ASC"]
        )
        return [
            run.info.run_id
            for run in sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))
        ]

    # --- entries

    def send(self, run_id: str, batch: list[dict[str, Any]]) -> None:
        first = batch[0]
        if "metrics" in first:
            self.client.log_batch(
                run_id,
                metrics=[
                    Metric(in_section(name), value, entry["time"], entry["step"])
                    for entry in batch
                    for name, value in entry["metrics"].items()
                ],
            )
            evaluated = any("mark" in entry for entry in batch)
            if evaluated and (parent := self.parent_of(run_id)):
                self.sum_up(parent, self.children(parent), batch[-1]["time"])
        elif "params" in first:
            known = self.client.get_run(run_id).data.params
            new = [Param(*each) for each in first["params"].items() if each[0] not in known]
            self.client.log_batch(run_id, params=new)
        elif "tags" in first:
            self.client.log_batch(
                run_id, tags=[RunTag(name, value) for name, value in tags_of(first).items()]
            )
        elif "artifact" in first:
            remove_uploading(self.client.get_run(run_id).info.artifact_uri, first["folder"])
            self.client.log_artifact(run_id, str(self.folder / first["artifact"]), first["folder"])
        elif "model" in first:
            self.model(run_id, self.folder / first["model"], first["step"], first["register"])
        elif "status" in first:
            self.status(run_id, first["status"], first["time"])

    def status(self, run_id: str, status: str, time_ms: int) -> None:
        """Sets the run's status; its parent runs as long as one of its children does."""
        parent = self.parent_of(run_id)
        if status == "RUNNING":
            for one in [run_id, parent] if parent else [run_id]:
                self.client.update_run(one, status)
            return
        self.client.set_terminated(run_id, status, time_ms)
        if parent:
            children = self.children(parent)
            self.sum_up(parent, children, time_ms)
            if not any(child.info.status == "RUNNING" for child in children):
                self.client.set_terminated(parent, "FINISHED", time_ms)

    def parent_of(self, run_id: str) -> str | None:
        return self.client.get_run(run_id).data.tags.get(PARENT)

    def children(self, parent: str) -> list[mlflow.entities.Run]:
        experiment = self.client.get_run(parent).info.experiment_id
        return list(self.client.search_runs([experiment], f"tags.`{PARENT}` = '{parent}'"))

    def sum_up(self, parent: str, children: list[mlflow.entities.Run], time_ms: int) -> None:
        """Gives a parent the means of its finished children's last metrics, of those that all of
        them have; the step is their number.
        """
        ended = [run.data.metrics for run in children if run.info.status == "FINISHED"]
        if ended:
            shared = set.intersection(*map(set, ended))
            means = {name: fmean(metrics[name] for metrics in ended) for name in sorted(shared)}
            points = [Metric(name, mean, time_ms, len(ended)) for name, mean in means.items()]
            for start in range(0, len(points), METRICS_AT_ONCE):
                self.client.log_batch(parent, metrics=points[start : start + METRICS_AT_ONCE])

    # --- the model

    def model(self, run_id: str, export: Path, step: int, register: str | None) -> None:
        """Logs an export once for each step, as an MLflow model of this run, and registers it once
        for each name.
        """
        run = self.client.get_run(run_id)
        found = self.client.search_logged_models(
            [run.info.experiment_id], f"source_run_id = '{run_id}'"
        )
        model_id = next(
            (
                model.model_id
                for model in found
                if model.tags.get("step") == str(step) and str(model.status) == "READY"
            ),
            None,
        )
        if model_id is None:
            model_id = self.log_model(run, export, step)
        if register:
            self.register(run_id, model_id, register)

    def log_model(self, run: mlflow.entities.Run, export: Path, step: int) -> str:
        made = self.client.create_logged_model(
            run.info.experiment_id,
            "model",
            run.info.run_id,
            {"step": str(step)},
            {"step": str(step)},
            "image tagging",
        )
        with tempfile.TemporaryDirectory(prefix="c2srt-model-") as folder:
            save_model(
                Path(folder) / "model",
                export,
                Model(
                    run_id=run.info.run_id,
                    model_uuid=made.model_id,
                    model_id=made.model_id,
                    artifact_path=made.artifact_location,
                ),
            )
            self.client.log_model_artifacts(made.model_id, str(Path(folder) / "model"))
        self.client.finalize_logged_model(made.model_id, "READY")
        self.client.log_outputs(run.info.run_id, [LoggedModelOutput(made.model_id, step)])
        return made.model_id

    def register(self, run_id: str, model_id: str, name: str) -> None:
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"models:/{model_id}"
        if not any(
            one.source == source for one in self.client.search_model_versions(f"name = '{name}'")
        ):
            self.client.create_model_version(name, source, run_id, model_id=model_id)


def data_input(name: str, version: str, folder: str, images: int) -> DatasetInput:
    """A data set as MLflow shows it: name, digest, where it lies, its number of images."""
    found = Dataset(
        name=name,
        digest=version,
        source_type="local",
        source=json.dumps({"uri": folder}),
        profile=json.dumps({"num_rows": images}),
    )
    return DatasetInput(found, [InputTag("mlflow.data.context", "training")])


def tags_of(entry: dict[str, Any]) -> dict[str, str]:
    """An entry's tags by their names in MLflow."""
    return {TAGS.get(name, name): value for name, value in entry["tags"].items()}


def remove_uploading(artifact_uri: str, folder: str | None) -> None:
    """Removes what a killed upload into a local store has left: MLflow itself hides it, and keeps
    it.
    """
    if is_local_uri(artifact_uri):
        for path in Path(local_file_uri_to_path(artifact_uri), folder or "").glob(f"{UPLOADING}*"):
            path.unlink(missing_ok=True)


def point_mlflow_at(uri: str) -> None:
    """Sets MLflow's store for this process, since registering a model asks it whatever the client's
    address is; and not for the processes started from here, as MLflow would: they would take it for
    the user's MLFLOW_TRACKING_URI.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before


def save_model(folder: Path, export: Path, model: Model | None = None) -> None:
    """Writes an export folder as an MLflow model: the two files, and this package's source, which
    loads them.

    Nothing is pickled: `c2srt.serving` builds the model from safetensors and JSON. The requirements
    are names and versions.
    """
    from c2srt import serving  # brings torch and open_clip, which only a model needs

    label = Object([Property("label", DataType.string), Property("score", DataType.double)])
    signature = ModelSignature(
        Schema([ColSpec(DataType.string, "image")]),
        Schema(
            [ColSpec(Array(label), "labels"), ColSpec(DataType.string, "error", required=False)]
        ),
        ParamSchema(
            [ParamSpec("labels", DataType.string, [], (-1,)), ParamSpec("topk", DataType.long, 5)]
        ),
    )
    size = read_json(export / "config.json", Command("export"))["clip"]["config"]["vision_cfg"][
        "image_size"
    ]
    os.environ.setdefault(
        "MLFLOW_UV_AUTO_DETECT", "false"
    )  # it would take the files of whatever project one stands in
    mlflow.pyfunc.save_model(
        folder,
        loader_module=serving.__name__,
        data_path=str(export),
        code_paths=[str(Path(serving.__file__).parent)],
        mlflow_model=model or Model(),
        signature=signature,
        input_example=serving.example(size if isinstance(size, int) else size[0]),
        pip_requirements=[requirement(name) for name in SERVED_BY],
    )
