"""The MLflow model of an export: logged, registered, loaded without pickles, and served over HTTP by MLflow itself."""

import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import traceback
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image

import c2srt
from c2srt.errors import UserError
from c2srt.tracking import Run, Tracker, unsent
from tests.mlflow_server import free_port, wait_until_up
from tests.tiny import tiny_export

NAMES = ("Dog", "Cat", "Tree", "Car", "Cloud", "Boat", "Zebra", "Dog")


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> tuple[Path, str, str]:
    """A finished training's folder, its store, and the id of its run: with the model logged and registered."""
    folder = tmp_path_factory.mktemp("serving")
    tiny_export(folder / "model", folder, NAMES, ["a {}."])
    tracker = Tracker(folder, f"sqlite:///{folder}/mlflow.db", Run("miniature", "full", {}, {}, "key"))
    tracker.metrics({"loss": 1.0}, 8)
    tracker.model(folder / "model", 8, "tagger")
    tracker.sender.closing.set()
    tracker.sender.join(300)  # `close` waits for seconds only: a busy machine makes the database for longer
    tracker.close()
    Tracker(folder).close(None)
    assert not unsent(folder)
    return folder, tracker.uri, tracker.run_id


@pytest.fixture(scope="module")
def photo() -> tuple[Image.Image, str]:
    """A picture, and the base64 of its PNG."""
    image, file = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)), io.BytesIO()
    image.save(file, "PNG")
    return image, base64.b64encode(file.getvalue()).decode()


def model_of(logged: tuple) -> mlflow.entities.LoggedModel:
    client = mlflow.MlflowClient(logged[1])
    model, = client.search_logged_models([client.get_run(logged[2]).info.experiment_id])
    return model


def test_the_model_is_the_runs_and_registered_once(logged):
    folder, uri, run_id = logged
    client = mlflow.MlflowClient(uri)
    again = Tracker(folder)
    again.model(folder / "model", 8, "tagger")  # as after a kill between sending and noting
    again.close(None)
    model, = client.search_logged_models([client.get_run(run_id).info.experiment_id])
    assert model.source_run_id == run_id and str(model.status) == "READY" and model.tags["step"] == "8"
    version, = client.search_model_versions("name = 'tagger'")
    assert version.run_id == run_id and version.source == f"models:/{model.model_id}"
    assert [output.model_id for output in client.get_run(run_id).outputs.model_outputs] == [model.model_id]


def test_the_folder_holds_no_pickle_no_address_and_the_export_as_it_is(logged):
    folder = Path(model_of(logged).artifact_location.removeprefix("file://"))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".pyc")]
    assert (folder / "data/model/model.safetensors").read_bytes() == (logged[0] / "model/model.safetensors").read_bytes()
    requirements = (folder / "requirements.txt").read_text()
    assert "torch==" in requirements and "+" not in requirements
    for name in ("requirements.txt", "conda.yaml", "python_env.yaml"):
        text = (folder / name).read_text()
        assert "://" not in text and " @ " not in text
    described = (folder / "MLmodel").read_text()
    assert "loader_module: c2srt.serving" in described and "signature:" in described and (folder / "input_example.json").exists()
    assert (folder / "code/c2srt/serving.py").exists()


def test_loaded_by_mlflow_it_answers_as_the_export_does(logged, photo):
    model = mlflow.pyfunc.load_model(model_of(logged).artifact_location)
    image, text = photo
    inputs = [{"image": text}, {"image": "no picture"}]
    found, broken = model.predict(inputs, {"labels": ["dog", "red car"], "topk": 2})
    expected = c2srt.load(logged[0] / "model").predict(image, ["dog", "red car"])[0].labels
    assert [(entry["label"], entry["score"]) for entry in found["labels"]] == [(label, pytest.approx(score)) for label, score in expected]
    assert broken == {"labels": [], "error": "not the base64 of a picture"}
    assert len(model.predict(inputs[:1])[0]["labels"]) == 5
    assert not (logged[0] / "model/new-words").exists() or list((logged[0] / "model/new-words").iterdir())


@pytest.mark.parametrize("params, sentence", [
    ({"labels": []}, "labels must be a list of at least one word"), ({"labels": "dog"}, "labels must be a list of words, such as"),
    ({"labels": None}, "labels must be a list of words"), ({"labels": ["dog", ""]}, "labels must be a list of at least one word"),
    ({"labels": [1984]}, "labels must be a list of at least one word"),
    ({"lables": ["dog"]}, "there is no parameter 'lables', did you mean 'labels'? (there are labels and topk)"),
    ({"topk": 0}, "topk must be a whole number from 1"), ({"topk": "five"}, "topk must be"), ({"topk": True}, "topk must be"),
    (["dog"], "params must be an object")])
def test_senseless_parameters_are_refused_without_repeating_the_picture(logged, photo, params, sentence):
    model = mlflow.pyfunc.load_model(model_of(logged).artifact_location)
    with pytest.raises(UserError) as refused:
        model.predict([{"image": photo[1]}], params)
    assert sentence in str(refused.value) and photo[1][:40] not in "".join(traceback.format_exception(refused.value))


def test_an_input_of_another_form_is_refused_without_repeating_it(logged, photo):
    model = mlflow.pyfunc.load_model(model_of(logged).artifact_location)
    for wrong, sentence in (([{"picture": photo[1]}], "no input 'picture'"), ({"picture": photo[1]}, "no input 'picture'"),
                            ([{"image": photo[1], "labels": ["dog"]}], "no input 'labels'.*are parameters"),
                            (photo[1], "the request cannot be answered")):
        with pytest.raises(UserError, match=sentence) as refused:
            model.predict(wrong)
        assert photo[1][:40] not in "".join(traceback.format_exception(refused.value))


def ask(port: int, content: dict) -> dict:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", json.dumps(content).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


@pytest.mark.slow
def test_mlflow_models_serve_answers_a_tagging_request(logged, photo, tmp_path):
    """From a folder where neither this package nor its data can be imported by chance."""
    port, (image, text) = free_port(), photo
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # an activated environment: mlflow calls uvicorn by name
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/tagger/1", "--env-manager", "local", "--port", str(port),
               "--workers", "1"]
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True,
                                  env=os.environ | {"MLFLOW_TRACKING_URI": logged[1], "OMP_NUM_THREADS": "1", "PATH": path})
    try:
        wait_until_up(f"http://127.0.0.1:{port}/ping", server)
        answer = ask(port, {"inputs": [{"image": text}], "params": {"labels": ["dog", "red car"], "topk": 1}})
        label, score = c2srt.load(logged[0] / "model").predict(image, ["dog", "red car"], 1)[0].labels[0]
        assert answer == {"predictions": [{"labels": [{"label": label, "score": pytest.approx(score, abs=1e-5)}]}]}
        records = ask(port, {"dataframe_records": [{"image": text}, {"image": "AAAA"}]})["predictions"]
        assert len(records[0]["labels"]) == 5 and records[1]["error"] == "not the base64 of a picture"
        for params, sentence in (({"labels": []}, "at least one word"), ({"labels": ["dog", " "]}, "at least one word"),
                                 ({"labels": "dog"}, "labels must be a list"), ({"lables": ["dog"]}, "did you mean 'labels'")):
            with pytest.raises(urllib.error.HTTPError) as refused:
                ask(port, {"inputs": [{"image": text}], "params": params})
            said = refused.value.read().decode()
            assert refused.value.code == 400 and sentence in said and text[:40] not in said
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
