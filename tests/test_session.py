"""How the jobs come to a Ray: addresses that are none, a local one on a poor machine."""

import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from ray import cloudpickle

from c2srt.cluster.address import check_address, given_address
from c2srt.cluster.cli import main
from c2srt.cluster.ray_private import named, unannounced
from c2srt.cluster.session import LONGEST_TEMPORARY, temporary_folder
from c2srt.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "address, what",
    (
        (
            "http://127.0.0.1:8265",
            (
                "is the address of Ray's dashboard, which `ray job submit` takes: unset it, or give"
                " host:port"
            ),
        ),
        ("https://head/", "is the address of Ray's dashboard"),
        ("ray://127.0.0.1:10001", "is an address for Ray's client"),
        *(
            (form, f"RAY_ADDRESS={form!r} is not an address: give host:port")
            for form in (
                "head",
                " ",
                "127.0.0.1",
                "127.0.0.1:",
                ":6379",
                "127.0.0.1:0",
                "127.0.0.1:65536",
                "a b:6379",
                "1:2:3",
                "[::1]",
                "h:6379/x",
            )
        ),
        (
            "no-such-host.invalid:6379",
            "no Ray cluster answers at RAY_ADDRESS=no-such-host.invalid:6379 (",
        ),
        ("a..b:6379", "no Ray cluster answers at RAY_ADDRESS=a..b:6379 ("),
    ),
)
def test_an_address_that_is_none_is_refused(monkeypatch, address, what):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError) as raised:
        check_address()
    assert what in str(raised.value)


@pytest.mark.parametrize(
    "answer, what",
    (
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what answers at RAY_ADDRESS={} is no Ray cluster"),
        (None, "no Ray cluster answers at RAY_ADDRESS={} ("),
    ),
)
def test_what_answers_must_be_ray(monkeypatch, answer, what):
    monkeypatch.setattr("c2srt.cluster.address.ANSWER_S", 0.5)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        if answer:
            import threading

            threading.Thread(target=lambda: server.accept()[0].sendall(answer), daemon=True).start()
        with pytest.raises(UserError) as raised:
            check_address()
    assert what.format(address) in str(raised.value)


def test_empty_and_local_mean_a_local_ray(monkeypatch):
    for value in ("", "local"):
        monkeypatch.setenv("RAY_ADDRESS", value)
        assert given_address() is None
        check_address()


@pytest.mark.parametrize("verb", ("shard", "audit", "teacher", "train", "evaluate"))
def test_every_verb_of_ray_looks_at_the_address_before_it_reads_its_inputs(
    monkeypatch, capsys, verb, tmp_path
):
    """There is no input: a verb that read first would name it."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    own = ["checkpoint=clip"] if verb == "evaluate" else []
    assert main([verb, "data=miniature", f"work={tmp_path}", *own]) == 2
    assert (
        f"c2srt {verb}: no Ray cluster answers at RAY_ADDRESS={address} (Connection refused)"
        in capsys.readouterr().err
    )


def test_private_names_of_ray_stand_in_one_file_and_a_missing_one_is_a_sentence():
    import ast

    found = set()
    for path in sorted((ROOT / "cluster").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] == "ray" and "._" in name for name in names):
                found.add(path.name)
    assert found == {"ray_private.py"}
    with pytest.raises(UserError, match=r"no_such_name.*install ray==2\."), named():
        from ray._private import no_such_name  # noqa: F401


def test_sockets_lie_where_their_path_is_short_enough(monkeypatch, tmp_path):
    long = tmp_path / ("a" * 60)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(long))
    assert len(str(temporary_folder())) <= LONGEST_TEMPORARY and temporary_folder().parent == Path(
        "/tmp"
    )
    assert not long.exists()
    monkeypatch.setenv("TMPDIR", "/proc/none")
    assert temporary_folder().parent == Path("/tmp")
    short = Path(f"/tmp/rs{os.getpid()}")
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    assert temporary_folder() == short / "ray"
    (short / "ray").rmdir()
    short.rmdir()


SLOW_AGENTS = """
import time
if "agent" in open("/proc/self/cmdline").read().split("\\0")[2:3][0]:
    time.sleep(40)
"""
START = """
import os, ray
from c2srt.cluster.session import join, run_tasks
join(1)
results = [result for _, result in run_tasks(lambda item: item + 1, [1, 2], 1)]
print("FOUND", results, ray._private.worker._global_node.get_session_dir_path())
try:
    list(run_tasks(lambda item: os.kill(os.getpid(), 9), [1], 1, retries=1))
except Exception as error:
    print("SAID", type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> subprocess.CompletedProcess:
    """START, where Ray has a hard time: it writes its token into the home folder, dies of a long
    TMPDIR, and dies when its agents take longer to start (ray#65983).
    """
    tmp_path = tmp_path_factory.mktemp("start")
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(SLOW_AGENTS)
    removed = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR", "HOME")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment |= {
        "HOME": "/proc/none",
        "TMPDIR": str(tmp_path / ("a" * 60)),
        "PYTHONPATH": f"{tmp_path}/site:{ROOT}",
    }
    return subprocess.run(
        [sys.executable, "-c", START], env=environment, cwd=ROOT, capture_output=True, text=True
    )


def test_a_local_ray_needs_no_home_no_short_tmpdir_and_no_agents_within_15_s(started):
    assert "FOUND [2, 3] /tmp/ray" in started.stdout, started.stdout + started.stderr


def test_a_worker_that_dies_at_each_try_is_a_sentence(started):
    assert (
        "SAID UserError a worker process died, and so did those that tried again" in started.stdout
    ), started.stderr


class Policy:
    """What Ray Train asks of its own."""

    workers = 3

    def after_controller_start(self, context):
        raise AssertionError("an actor was started")

    def _maybe_send_resource_request(self):
        raise AssertionError("an actor was asked")

    def decide(self):
        self._maybe_send_resource_request()
        return self.workers


def test_a_training_s_workers_are_announced_to_no_actor():
    there = cloudpickle.loads(cloudpickle.dumps(unannounced(Policy())))  # in the controller
    there.after_controller_start(None)
    assert there.decide() == 3 and isinstance(there, Policy)
