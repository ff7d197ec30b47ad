"""The names of Ray that are not its public interface, each for want of a public one.

Seen to work with Ray 2.60.0. What a later Ray no longer has ends the command with a sentence.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from c2srt.errors import UserError

SEEN = "2.60.0"


@contextmanager
def named() -> Iterator[None]:
    """An import that fails inside is a UserError that says which Ray will do."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"Ray {ray.__version__} is not one that this program knows ({error}): install"
            f" ray=={SEEN}"
        ) from error


with named():
    from ray._private import ray_constants, services
    from ray._private.services import get_ray_address_from_environment
    from ray._private.state import available_resources_per_node
    from ray._raylet import (  # type: ignore[attr-defined]  # Ray's own stub lacks them
        DASHBOARD_AGENT_LISTEN_PORT_NAME,
        METRICS_AGENT_PORT_NAME,
        METRICS_EXPORT_PORT_NAME,
        RUNTIME_ENV_AGENT_PORT_NAME,
        AuthenticationTokenLoader,
        persist_port,
    )

__all__ = [
    "DASHBOARD_AGENT_LISTEN_PORT_NAME",
    "METRICS_AGENT_PORT_NAME",
    "METRICS_EXPORT_PORT_NAME",
    "RUNTIME_ENV_AGENT_PORT_NAME",
    "AuthenticationTokenLoader",
    "available_resources_per_node",
    "get_ray_address_from_environment",
    "persist_port",
    "ray_constants",
    "services",
    "train_timeouts",
    "unannounced",
]


def train_timeouts() -> tuple[type[Exception], type[Exception]]:
    """What Ray Train raises where it finds no place for the workers in time, and where one gives no
    sign of life. Apart from the others, since Ray Train takes seconds to import.
    """
    with named():
        from ray.train.v2._internal.exceptions import (
            WorkerGroupStartupTimeoutError,
            WorkerHealthCheckTimeoutError,
        )
    return WorkerGroupStartupTimeoutError, WorkerHealthCheckTimeoutError


def unannounced(policy: Any) -> Any:
    """Ray Train's scaling policy without the actor that it would announce the workers to, of its
    own for the whole cluster, for an autoscaler to make room: a training starts where there is.
    """

    class Unannounced(type(policy)):  # type: ignore[misc]  # a class that is known when it runs
        def after_controller_start(self, train_run_context: object) -> None:
            pass

        def _maybe_send_resource_request(self) -> None:
            pass

    policy.__class__ = Unannounced
    return policy
