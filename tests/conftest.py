"""Threads that wait for each other sleep in the tests: spinning ones make a shared machine ten times slower (measured on 2 cores).

OpenMP reads the variable when torch is first imported, and Ray's and DeepSpeed's workers inherit it.
"""

import os
import sys
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`pytest -m slow` and `pytest -m long` share no test."""
    for item in items:
        if item.get_closest_marker("slow") and item.get_closest_marker("long"):
            raise pytest.UsageError(f"{item.nodeid} is marked slow and long: slow tests run in CI, long ones by hand")


@pytest.fixture(scope="module", autouse=True)
def nothing_left_set() -> Iterator[None]:
    """A module that joins or starts Ray leaves no Ray, no address, and no loopback-only Ray to the modules and commands after it."""
    yield
    if ray := sys.modules.get("ray"):
        ray.shutdown()  # nothing happens where there is none
    for name in ("RAY_ADDRESS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        os.environ.pop(name, None)
    if constants := sys.modules.get("ray._private.ray_constants"):
        constants.ENABLE_RAY_CLUSTER = True
