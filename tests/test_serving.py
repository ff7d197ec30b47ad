"""The MLflow model of an export: logged, registered, loaded without pickles, and served over HTTP
by MLflow itself.
"""

import asyncio
import base64
import contextlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
from mlflow.pyfunc import scoring_server
from PIL import Image

import c2srt
from c2srt.errors import UserError
from c2srt.serving import Tagger
from c2srt.tracking import Run, Tracker, unsent
from tests.mlflow_server import free_port, wait_until_up
from tests.tiny import tiny_export

NAMES = ("Dog", "Cat", "Tree", "Car", "Cloud", "Boat", "Zebra", "Dog")


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> tuple[Path, str, str]:
    """A finished training's folder, its store, and the id of its run: with the model logged and
    registered.
    """
    folder = tmp_path_factory.mktemp("serving")
    tiny_export(folder / "model", folder, NAMES, ["a {}."])
    tracker = Tracker(
        folder, f"sqlite:///{folder}/mlflow.db", Run("miniature", "full", {}, {}, "key")
    )
    tracker.metrics({"loss": 1.0}, 8)
    tracker.model(folder / "model", 8, "tagger")
    tracker.sender.close()
    tracker.sender.join(
        300
    )  # `close` waits for seconds only: a busy machine makes the database for longer
    tracker.close()
    Tracker(folder).close(None)
    assert not unsent(folder)
    return folder, tracker.uri, tracker.run_id


@pytest.fixture(scope="module")
def photo() -> tuple[Image.Image, str]:
    """A picture, and the base64 of its PNG."""
    image, file = (
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)),
        io.BytesIO(),
    )
    image.save(file, "PNG")
    return image, base64.b64encode(file.getvalue()).decode()


def model_of(logged: tuple) -> mlflow.entities.LoggedModel:
    client = mlflow.MlflowClient(logged[1])
    (model,) = client.search_logged_models([client.get_run(logged[2]).info.experiment_id])
    return model


def test_the_model_is_the_runs_and_registered_once(logged):
    folder, uri, run_id = logged
    client = mlflow.MlflowClient(uri)
    again = Tracker(folder)
    again.model(folder / "model", 8, "tagger")  # as after a kill between sending and noting
    again.close(None)
    (model,) = client.search_logged_models([client.get_run(run_id).info.experiment_id])
    assert (
        model.source_run_id == run_id and str(model.status) == "READY" and model.tags["step"] == "8"
    )
    (version,) = client.search_model_versions("name = 'tagger'")
    assert version.run_id == run_id and version.source == f"models:/{model.model_id}"
    assert [output.model_id for output in client.get_run(run_id).outputs.model_outputs] == [
        model.model_id
    ]


def test_the_folder_holds_no_pickle_no_address_and_the_export_as_it_is(logged):
    folder = Path(model_of(logged).artifact_location.removeprefix("file://"))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [
        path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".pyc")
    ]
    assert (folder / "data/model/model.safetensors").read_bytes() == (
        logged[0] / "model/model.safetensors"
    ).read_bytes()
    requirements = (folder / "requirements.txt").read_text()
    assert "torch==" in requirements and "+" not in requirements
    for name in ("requirements.txt", "conda.yaml", "python_env.yaml"):
        text = (folder / name).read_text()
        assert "://" not in text and " @ " not in text
    described = (folder / "MLmodel").read_text()
    assert (
        "loader_module: c2srt.serving" in described
        and "signature:" in described
        and (folder / "input_example.json").exists()
    )
    assert (folder / "code/c2srt/serving.py").exists()


def test_loaded_by_mlflow_it_answers_as_the_export_does(logged, photo):
    model = mlflow.pyfunc.load_model(model_of(logged).artifact_location)
    image, text = photo
    inputs = [{"image": text}, {"image": "no picture"}]
    found, broken = model.predict(inputs, {"labels": ["dog", "red car"], "topk": 2})
    expected = c2srt.load(logged[0] / "model").predict(image, ["dog", "red car"])[0].labels
    assert [(entry["label"], entry["score"]) for entry in found["labels"]] == [
        (label, pytest.approx(score)) for label, score in expected
    ]
    assert broken == {"labels": [], "error": "not the base64 of a picture"}
    assert len(model.predict(inputs[:1])[0]["labels"]) == 5
    assert not (logged[0] / "model/new-words").exists() or list(
        (logged[0] / "model/new-words").iterdir()
    )


@pytest.mark.parametrize(
    "params, sentence",
    [
        ({"labels": []}, "labels must be a list of at least one word"),
        ({"labels": "dog"}, "labels must be a list of words, such as"),
        ({"labels": None}, "labels must be a list of words"),
        ({"labels": ["dog", ""]}, "labels must be a list of at least one word"),
        ({"labels": [1984]}, "labels must be a list of at least one word"),
        (
            {"lables": ["dog"]},
            "there is no parameter 'lables', did you mean 'labels'? (there are labels and topk)",
        ),
        ({"topk": 0}, "topk must be a whole number from 1"),
        ({"topk": "five"}, "topk must be"),
        ({"topk": True}, "topk must be"),
        (["dog"], "params must be an object"),
    ],
)
def test_senseless_parameters_are_refused_without_repeating_the_picture(
    logged, photo, params, sentence
):
    model = mlflow.pyfunc.load_model(model_of(logged).artifact_location)
    with pytest.raises(UserError) as refused:
        model.predict([{"image": photo[1]}], params)
    assert sentence in str(refused.value) and photo[1][:40] not in "".join(
        traceback.format_exception(refused.value)
    )


def test_an_input_of_another_form_is_refused_without_repeating_it(logged, photo):
    model = mlflow.pyfunc.load_model(model_of(logged).artifact_location)
    for wrong, sentence in (
        ([{"picture": photo[1]}], "no input 'picture'"),
        ({"picture": photo[1]}, "no input 'picture'"),
        ([{"image": photo[1], "labels": ["dog"]}], "no input 'labels'.*are parameters"),
        (photo[1], "the request cannot be answered"),
    ):
        with pytest.raises(UserError, match=sentence) as refused:
            model.predict(wrong)
        assert photo[1][:40] not in "".join(traceback.format_exception(refused.value))


def ask(port: int, content: dict) -> dict:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps(content).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


@contextlib.contextmanager
def served(logged: tuple, folder: Path) -> Iterator[tuple[int, subprocess.Popen]]:
    """(port, process) of `mlflow models serve`, started where neither this package nor its data can
    be imported by chance.
    """
    port = free_port()
    path = (  # an activated environment: mlflow calls uvicorn by name
        f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        "models:/tagger/1",
        "--env-manager",
        "local",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    with (folder / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ
            | {
                "MLFLOW_TRACKING_URI": logged[1],
                "OMP_NUM_THREADS": "1",
                "PATH": path,
            },
        )
    try:
        wait_until_up(f"http://127.0.0.1:{port}/ping", server)
        yield port, server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.slow
def test_mlflow_models_serve_answers_a_tagging_request(logged, photo, tmp_path):
    image, text = photo
    with served(logged, tmp_path) as (port, _):
        answer = ask(
            port, {"inputs": [{"image": text}], "params": {"labels": ["dog", "red car"], "topk": 1}}
        )
        label, score = (
            c2srt.load(logged[0] / "model").predict(image, ["dog", "red car"], 1)[0].labels[0]
        )
        assert answer == {
            "predictions": [{"labels": [{"label": label, "score": pytest.approx(score, abs=1e-5)}]}]
        }
        records = ask(port, {"dataframe_records": [{"image": text}, {"image": "AAAA"}]})[
            "predictions"
        ]
        assert (
            len(records[0]["labels"]) == 5 and records[1]["error"] == "not the base64 of a picture"
        )
        for params, sentence in (
            ({"labels": []}, "at least one word"),
            ({"labels": ["dog", " "]}, "at least one word"),
            ({"labels": "dog"}, "labels must be a list"),
            ({"lables": ["dog"]}, "did you mean 'labels'"),
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                ask(port, {"inputs": [{"image": text}], "params": params})
            said = refused.value.read().decode()
            assert refused.value.code == 400 and sentence in said and text[:40] not in said


# --- requests that mean harm


def png(width: int, height: int) -> str:
    """The base64 of a black PNG, made without its pixels: some kB for any size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return base64.b64encode(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    ).decode()


def request_of(pictures: list, **params) -> bytes:
    return json.dumps(
        {"inputs": [{"image": picture} for picture in pictures], "params": params}
    ).encode()


EPS = base64.b64encode(
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\nshowpage\n%%EOF\n"
).decode()
SECRET = "c2VjcmV0" * 40
"""What must not come back."""
REFUSED = {  # a request, its content type, words of the answer
    "too many pictures": (request_of([SECRET] * 17), "at most 16 pictures, this one has 17"),
    "very many pictures": (request_of([""] * 100_000), "at most 16 pictures, this one has 100,000"),
    "too many labels": (
        request_of([SECRET], labels=[f"w{number}" for number in range(100_000)]),
        "at most 1,000 labels",
    ),
    "a long label": (request_of([SECRET], labels=["dog", SECRET * 1000]), "at most 300 letters"),
    "topk -1": (request_of([SECRET], topk=-1), "topk must be a whole number from 1"),
    "topk vast": (request_of([SECRET], topk=10**30), "topk must be at most"),
    "topk 1.5": (request_of([SECRET], topk=1.5), "topk must be"),
    "topk null": (request_of([SECRET], topk=None), "topk must be"),
    "topk NaN": (request_of([SECRET], topk=float("nan")), "topk must be"),
    "labels [null]": (request_of([SECRET], labels=[None]), "at least one word"),
    "labels nested": (request_of([SECRET], labels=[["dog"]]), "at least one word"),
    "labels lone surrogate": (request_of([SECRET], labels=["\ud800"]), "is not text in UTF-8"),
    "another parameter": (request_of([SECRET], **{SECRET: 1}), "there is no parameter"),
    "another column": (json.dumps({"inputs": [{SECRET: "x"}]}).encode(), "there is no input"),
    "brackets": (
        b'{"inputs": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        "the request cannot be answered",
    ),
    "objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "the request cannot be answered"),
    "a long number": (
        b'{"inputs": [{"image": ' + b"9" * 100_000 + b"}]}",
        "the request cannot be answered",
    ),
    "no JSON": (SECRET.encode(), "the request cannot be answered"),
    "empty": (b"", "the request cannot be answered"),
    "no UTF-8": (b"\xff\xfe{}", "the request cannot be answered"),
    "a list": (b"[1, 2]", "the request cannot be answered"),
    "no inputs": (b'{"params": {}}', "the request cannot be answered"),
    "split": (
        json.dumps(
            {"dataframe_split": {"columns": ["image"], "data": [[SECRET, SECRET]]}}
        ).encode(),
        "the request cannot be answered",
    ),
    "too large": (b" " * ((64 << 20) + 1), "at most 64 MiB"),
}
ROWS = {  # requests that are answered, each picture with an error
    "EPS": lambda: request_of([EPS] * 16),
    "huge pictures": lambda: request_of([png(13_000, 13_000)] * 8),
    "no picture": lambda: request_of(
        ["", "AAAA", "\u00e9", base64.b64encode(b"\xff\xd8" + bytes(1000)).decode()]
    ),
}


def check_refusal(status: int, said: str, words: str) -> None:
    content = json.loads(said)
    assert status == 400 and words in content["message"] and "stack_trace" not in content
    assert (
        len(content["message"]) <= 300
        and content["message"].isprintable()
        and SECRET[:24] not in said
    )


@pytest.fixture(scope="module")
def app(logged):
    """MLflow's own application of the model, in this process."""
    return scoring_server.init(mlflow.pyfunc.load_model(model_of(logged).artifact_location))


def posted(app, content: bytes, kind: str | None = "application/json") -> tuple[int, str]:
    """(status, text) of its answer."""

    async def post() -> httpx2.Response:
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://model"
        ) as client:
            return await client.post(
                "/invocations", content=content, headers={"Content-Type": kind} if kind else {}
            )

    answer = asyncio.run(post())
    return answer.status_code, answer.text


@pytest.mark.parametrize("kind", REFUSED)
def test_a_hostile_request_is_refused_in_one_sentence(app, kind):
    content, words = REFUSED[kind]
    check_refusal(*posted(app, content), words)


@pytest.mark.parametrize(
    "kind",
    [
        "text/csv",
        "application/x-parquet",
        "text/html",
        None,
        "",
        "application/json; charset=latin-1; x=y",
    ],
)
def test_what_is_no_json_is_not_looked_at(app, kind):
    status, said = posted(app, b"image\n" + SECRET.encode(), kind)
    assert status in (400, 415) and SECRET[:24] not in said and "Traceback" not in said


@pytest.mark.parametrize("kind", ROWS)
def test_pictures_that_cannot_be_read_are_rows(app, kind):
    status, said = posted(app, ROWS[kind]())
    assert status == 200 and all(
        answer["error"] and not answer["labels"] for answer in json.loads(said)["predictions"]
    )


def test_a_plain_request_is_answered_after_all_that(app, photo):
    status, said = posted(app, request_of([photo[1]], labels=["dog"]))
    assert status == 200 and json.loads(said)["predictions"][0]["labels"][0]["label"] == "dog"


def test_words_of_requests_are_not_kept_for_ever(logged, photo, monkeypatch):
    monkeypatch.setattr("c2srt.serving_limits.KEPT_WORDS", 3)
    tagger = Tagger(str(logged[0] / "model"))
    for labels in (["a", "b"], ["c", "d"], ["e"]):
        tagger.predict(pd.DataFrame({"image": [photo[1]]}), {"labels": labels})
    assert set(tagger._predictor.model.new_words.known()) == {"e"}


def memory_of(server: subprocess.Popen) -> int:
    """MB of a process and all below it, each page once."""
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss >> 20
    return total


def harmful() -> Iterator[tuple[str, bytes]]:
    """One request of each kind."""
    yield from ((kind, content) for kind, (content, _) in REFUSED.items())
    yield from ((kind, make()) for kind, make in ROWS.items())
    yield "pictures just below the limit", request_of([png(7000, 7000)] * 16, labels=["dog"])
    yield (
        "words just below the limit",
        request_of([png(8, 8)], labels=[f"{number} " + "x" * 290 for number in range(1000)]),
    )


def kept_busy(
    logged: tuple, photo: tuple, folder: Path, seconds: float
) -> tuple[list[float], dict[str, float]]:
    """Hostile requests for `seconds`, each kind at least once, plain ones beside them: the seconds
    of each plain one, and after each kind the most memory against the start's.
    """
    stop, waits, memory = threading.Event(), [], {}
    with served(logged, folder) as (port, server):
        plain = json.loads(request_of([photo[1]], labels=["dog", "red car"]))
        for _ in range(5):
            ask(port, plain)
        start = memory_of(server)

        def ask_plainly() -> None:
            while not stop.is_set():
                begun = time.monotonic()
                assert ask(port, plain)["predictions"][0]["labels"]
                waits.append(time.monotonic() - begun)
                stop.wait(0.2)

        beside = threading.Thread(target=ask_plainly)
        beside.start()
        until, requests = time.monotonic() + seconds, list(harmful())
        try:
            while True:
                for kind, content in requests:
                    with contextlib.suppress(
                        urllib.error.HTTPError, ConnectionError, urllib.error.URLError
                    ):
                        url = f"http://127.0.0.1:{port}/invocations"
                        urllib.request.urlopen(
                            urllib.request.Request(
                                url, content, {"Content-Type": "application/json"}
                            ),
                            timeout=120,
                        ).read()
                    settled = time.monotonic() + 10
                    while (now := memory_of(server) / start) > 1.5 and time.monotonic() < settled:
                        time.sleep(0.2)
                    memory[kind] = max(memory.get(kind, 0), now)
                if time.monotonic() > until:
                    break
        finally:
            stop.set()
            beside.join()
    return waits, memory


@pytest.mark.slow
def test_hostile_requests_leave_no_memory_behind(logged, photo, tmp_path):
    """Each once, from another process."""
    waits, memory = kept_busy(logged, photo, tmp_path, 0)
    assert waits and max(memory.values()) <= 1.5, memory


@pytest.mark.long  # CI has the one above
@pytest.mark.timeout(1200)
def test_ten_minutes_of_hostile_requests(logged, photo, tmp_path):
    waits, memory = kept_busy(logged, photo, tmp_path, 600)
    print(
        f"{len(waits)} plain requests, the slowest {max(waits):.2f} s; memory at most"
        f" {max(memory.values()):.2f} of the start's: {memory}"
    )
    assert max(waits) <= 2 and max(memory.values()) <= 1.5
