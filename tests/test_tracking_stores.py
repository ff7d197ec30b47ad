"""Where a store of runs may lie, what a person must mend, and what nobody is told."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from c2srt.errors import UserError
from c2srt.redact import has_credentials, redacted
from c2srt.tracking import Run, Tracker, sending, unsent
from c2srt.tracking.config import TrackingConfig
from c2srt.tracking.sqlite import address_of, path_of
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


# --- where a store may lie, and what a person must mend


@pytest.mark.parametrize("odd", ["a?b", "50%25 [1]#x"])
def test_the_default_store_lies_in_the_work_folder_whatever_its_name(tmp_path, empty, odd):
    work = tmp_path / odd
    work.mkdir()
    shutil.copy(empty, work / "mlflow.db")
    store = TrackingConfig().store(str(work), {})
    assert path_of(store) == work / "mlflow.db"
    tracker = Tracker(folder(work), store, run())
    (work / "run/a.txt").write_text("hello", encoding="utf-8")
    tracker.artifact(work / "run/a.txt")
    tracker.close()
    (found,) = runs(store)
    assert not unsent(work / "run") and [
        file.name for file in (work / "mlartifacts").rglob("*.txt")
    ] == ["a.txt"]
    assert found.info.status == "FINISHED" and [path.name for path in tmp_path.iterdir()] == [odd]


def test_addresses_of_plain_files_stay_plain():
    assert address_of(Path("/runs/mine [1]/mlflow.db")) == "sqlite:////runs/mine [1]/mlflow.db"
    assert (
        path_of("sqlite:////runs/x.db") == Path("/runs/x.db")
        and path_of("http://host:5000") is None
    )


def test_a_deleted_experiment_is_named_with_what_helps_and_then_it_is_sent(uri, tmp_path, capsys):
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("miniature")
    client.delete_experiment(experiment)
    for name in ("one", "two"):
        tracker = Tracker(folder(tmp_path, name), uri, run(name))
        tracker.metrics({"loss": 1.0}, 1)
        tracker.close()
        said = capsys.readouterr().err
        assert f"`MLFLOW_TRACKING_URI={uri} mlflow experiments restore -x {experiment}`" in said
        assert (
            "sent when the same command runs again after this: the experiment 'miniature' was"
            " deleted in MLflow" in said
        )
    other = replace(run("one"), experiment="other")
    Tracker(tmp_path / "one", uri, other).close()
    assert [found.info.run_name for found in runs(uri, "other")] == ["one"]
    subprocess.run(
        [sys.executable, "-m", "mlflow", "experiments", "restore", "-x", experiment],
        check=True,
        env=os.environ | {"MLFLOW_TRACKING_URI": uri},
    )
    Tracker(tmp_path / "two", uri, run("two")).close()
    (found,) = runs(uri)
    assert found.info.run_name == "two" and points(uri, found.info.run_id) == [(1, 1.0)]


TRACK = """
import sys
from dataclasses import replace
from pathlib import Path
from c2srt.tracking import Run, Tracker
tracker = Tracker(Path(sys.argv[1]), sys.argv[2], Run("miniature", "full", {}, {}))
tracker.metrics({"loss": 1.0}, 1)
tracker.artifact(Path(sys.argv[1]) / "none")
tracker.model(Path(sys.argv[1]) / "none", 1)
tracker.close()
"""


def test_a_user_without_name_or_home_is_recorded_by_number(uri, tmp_path):
    alone = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*alone, "true"], capture_output=True).returncode
    ):
        pytest.skip("this machine gives no user namespaces")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME")
    }
    subprocess.run(
        [*alone, sys.executable, "-c", TRACK, str(folder(tmp_path)), uri],
        check=True,
        env=environment,
    )
    (found,) = runs(uri)
    assert found.data.tags["mlflow.user"] == "12345" and points(uri, found.info.run_id) == [
        (1, 1.0)
    ]


def test_a_store_that_cannot_be_imported_raises_nothing_and_keeps_the_record(uri, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/mlflow.py").write_text(
        "raise RuntimeError('Could not determine home directory.')", encoding="utf-8"
    )
    ran = subprocess.run(
        [sys.executable, "-c", TRACK, str(folder(tmp_path)), uri],
        check=True,
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "broken")},
    )
    assert "fails (Could not determine home directory.); the run goes on" in ran.stderr
    assert "did not reach" in ran.stderr and unsent(tmp_path / "run")


# --- secrets

SECRETS = {
    "OPENAI_API_KEY": "sk-live-1234567890",
    "MLFLOW_TRACKING_PASSWORD": "correct horse",
    "RAY_AUTH_TOKEN": "f00dcafef00dcafe",
}


def test_no_secret_is_written_anywhere(uri, tmp_path, monkeypatch, capsys):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    where = folder(tmp_path)
    params = {
        "url": "https://me:hunter22hunter@host/data?token=abcdefgh&x=1",
        "list": ["a", SECRETS["OPENAI_API_KEY"]],
        "plain": "a b",
    }
    for store in (uri, "http://me:hunter22hunter@127.0.0.1:9"):
        tracker = Tracker(
            where,
            store,
            Run("miniature", None, params, {"job": f"Bearer {SECRETS['RAY_AUTH_TOKEN']}"}, "key"),
        )
        tracker.metrics({"loss": 1.0}, 1)
        tracker.close()
    said = "".join(capsys.readouterr())
    assert "127.0.0.1:9 fails" in said
    written = (
        b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        + said.encode()
    )
    for secret in (*SECRETS.values(), "hunter22", "abcdefgh"):
        assert secret.encode() not in written
    (found,) = runs(uri)
    assert (
        found.data.params["url"] == "https://***@host/data?token=***&x=1"
        and found.data.params["plain"] == "a b"
    )


@pytest.mark.parametrize(
    "text, expected",
    [
        ("http://user:pass@host:5000/x", "http://***@host:5000/x"),
        ("mysql+pymysql://u:p%40@db/x", "mysql+pymysql://***@db/x"),
        ("see http://u:p@a and https://t@b", "see http://***@a and https://***@b"),
        ("sqlite:////runs/a@b/mlflow.db", None),
        ("http://host/a@b", None),
        ("photo@example.org", None),
        ("?api_key=abc&n=1", "?api_key=***&n=1"),
        ({"a": ["x://u:p@h"]}, {"a": ["x://***@h"]}),
        (3, None),
    ],
)
def test_addresses_lose_their_credentials(text, expected):
    assert redacted(text, {}) == (text if expected is None else expected)


def test_values_of_secret_variables_are_hidden_but_not_placeholders():
    environment = {"MY_TOKEN": "0123456789", "OPENAI_API_KEY": "none", "PATH": "/usr/bin:/bin"}
    assert redacted("0123456789 none /usr/bin:/bin", environment) == "*** none /usr/bin:/bin"


def test_a_password_in_the_settings_is_refused_without_showing_it():
    with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        TrackingConfig(uri="http://me:hunter22@host:5000")
    assert "hunter22" not in str(refused.value)
    assert not has_credentials("http://host:5000") and not has_credentials(
        "sqlite:////a@b/mlflow.db"
    )


def test_a_password_in_the_environment_is_used_and_not_written(uri, tmp_path, monkeypatch):
    given = "http://me:hunter22hunter@127.0.0.1:9"
    Tracker(folder(tmp_path), given, run()).close()
    assert "hunter22" not in (tmp_path / "run/run.json").read_text()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    again = Tracker(tmp_path / "run")
    again.close(None)
    assert again.uri == given
