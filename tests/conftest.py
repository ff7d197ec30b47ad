"""Threads that wait for each other sleep in the tests: spinning ones make a shared machine ten
times slower (measured on 2 cores).

OpenMP reads the variable when torch is first imported, and Ray's and DeepSpeed's workers inherit
it.
"""

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from c2srt.console import show_log
from tests.hub_files import NEEDED

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
show_log()  # what a verb's function says is read as a command shows it


def pytest_configure(config: pytest.Config) -> None:
    """Where Python may leave no compiled files beside the sources, all processes of the tests share
    a temporary folder of them. Hundreds are started here, and to compile what it imports costs each
    more than all else it does.
    """
    if sys.dont_write_bytecode and not hasattr(config, "workerinput"):
        compiled = tempfile.TemporaryDirectory(prefix="compiled-", ignore_cleanup_errors=True)
        config.add_cleanup(compiled.cleanup)
        del os.environ["PYTHONDONTWRITEBYTECODE"]
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = compiled.name
        sys.dont_write_bytecode = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`pytest -m slow` and `pytest -m long` share no test."""
    for item in items:
        if item.get_closest_marker("slow") and item.get_closest_marker("long"):
            raise pytest.UsageError(
                f"{item.nodeid} is marked slow and long: slow tests run in CI, long ones by hand"
            )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, pytest.TestReport]:
    """A test that is skipped for want of the extra hub is marked: .ci/run finds it by the mark."""
    report = yield
    if report.skipped and NEEDED in str(report.longrepr) and not item.get_closest_marker("hub"):
        report.outcome, report.longrepr = "failed", "is to be marked hub"
    return report


LOCAL_RAY = """
import ray, sys
from c2srt.cluster import session
session.START_ATTEMPTS = 20
session.join(4)
print("ADDRESS", ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """A local Ray of four CPUs, as our commands start it, in a process of its own that ends with
    the tests. Its token stays in the environment: whoever joins it needs the same one, and a Ray
    that a command starts for itself takes any.
    """
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    process = subprocess.Popen(
        [sys.executable, "-c", LOCAL_RAY],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield next(line.split()[1] for line in process.stdout if line.startswith("ADDRESS"))
    process.stdin.close()
    process.wait()


@pytest.fixture(scope="module")
def shared_ray(ray_address) -> None:
    """What a module joins, and its commands, instead of starting a Ray of its own, which takes
    longer than most of their work.

    Not for tests that kill workers or nodes, or that look for Ray's processes below the command's.
    """
    from ray._private import ray_constants
    from ray._private.authentication.authentication_token_setup import enable_token_auth_by_default
    from ray._raylet import AuthenticationTokenLoader

    enable_token_auth_by_default()  # as Ray does itself, for good, where it starts a local one
    AuthenticationTokenLoader.instance().reset_cache()  # this process may have used another one
    os.environ["RAY_ADDRESS"] = (
        ray_address  # this and the next two until the module's end: nothing_left_set
    )
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = (
        "0"  # it listens on loopback only: c2srt.cluster.session.start
    )
    ray_constants.ENABLE_RAY_CLUSTER = False


@pytest.fixture(scope="module", autouse=True)
def nothing_left_set() -> Iterator[None]:
    """A module that joins or starts Ray leaves no Ray, no address, and no loopback-only Ray to the
    modules and commands after it.
    """
    yield
    if ray := sys.modules.get("ray"):
        ray.shutdown()  # nothing happens where there is none
    for name in ("RAY_ADDRESS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        os.environ.pop(name, None)
    if constants := sys.modules.get("ray._private.ray_constants"):
        constants.ENABLE_RAY_CLUSTER = True
