"""Ray's start without the limits that a busy machine does not meet.

Its raylet dies when an agent process has not written its ports into a file within 15 s (ray#65983),
and the one who started it gives up after 30 s. Neither is a setting. Here the ports are chosen
before and the files lie there from the start, so that nobody waits for the agents, and the raylet
is waited for as long as it lives.

    python -m c2srt.cluster.patience start --head …    `ray start …`, in that way
"""

import inspect
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from c2srt.cluster.ray_private import (
    DASHBOARD_AGENT_LISTEN_PORT_NAME,
    METRICS_AGENT_PORT_NAME,
    METRICS_EXPORT_PORT_NAME,
    RUNTIME_ENV_AGENT_PORT_NAME,
    persist_port,
    services,
)

PORTS = {
    "metrics_agent_port": METRICS_AGENT_PORT_NAME,
    "metrics_export_port": METRICS_EXPORT_PORT_NAME,
    "dashboard_agent_listen_port": DASHBOARD_AGENT_LISTEN_PORT_NAME,
    "runtime_env_agent_port": RUNTIME_ENV_AGENT_PORT_NAME,
}
"""What Ray calls the agents' ports: as arguments, and in the files."""
START_S = 600


@contextmanager
def patient(seconds: float) -> Iterator[None]:
    """A Ray that is started inside takes its time, up to `seconds`."""
    begin, ask = services.start_raylet, services.get_node
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", f"{seconds:.0f}")
    services.start_raylet, services.get_node = with_ports(begin), while_it_lives(ask, seconds)
    try:
        yield
    finally:
        services.start_raylet, services.get_node = begin, ask


def with_ports(begin: Callable) -> Callable:
    """Ray's `start_raylet`, with ports for the agents that are known to all at once."""
    signature = inspect.signature(begin)

    def start_raylet(*arguments: object, **names: object) -> object:
        call = signature.bind(*arguments, **names)
        for name, free in zip(PORTS, free_ports(len(PORTS)), strict=True):
            port = call.arguments[name] = call.arguments.get(name) or free
            persist_port(
                call.arguments["session_dir"], call.arguments["node_id"], PORTS[name], port
            )
        return begin(*call.args, **call.kwargs)

    return start_raylet


def while_it_lives(ask: Callable, seconds: float) -> Callable:
    """Ray's `get_node`, which fails as long as the raylet has not registered, tried again while
    there is a raylet.
    """

    def get_node(*arguments: object) -> object:
        deadline = time.monotonic() + seconds
        while True:
            try:
                return ask(*arguments)
            except RuntimeError:
                if time.monotonic() > deadline or not raylet_lives():
                    raise
            time.sleep(0.2)

    return get_node


def raylet_lives() -> bool:
    children = (
        child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE
    )
    return any(child.name().startswith("raylet") for child in children)


def free_ports(count: int) -> list[int]:
    """Different ones, that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


if __name__ == "__main__":
    from ray.scripts.scripts import main

    with patient(START_S):
        main()
