"""Ray Train's way to make a process group, but for its end. Light to import: Ray's controller loads
this file.
"""

import os
from typing import Any

from ray.train.torch import TorchConfig

LEAVE_S = 2
"""Ray Train waits 30 s for a rank that is stopped to leave its process group, and reads the number
from the controller's environment, to which it hands on what it knows by name. Meanwhile all the
others hold their GPUs.
"""


class Backend(TorchConfig().backend_cls):  # type: ignore[misc]  # known when it runs
    def on_shutdown(self, *given: Any, **named: Any) -> None:
        os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", str(LEAVE_S))
        super().on_shutdown(*given, **named)


class Groups(TorchConfig):
    """As its parent, with that backend."""

    @property
    def backend_cls(self) -> type:
        return Backend
