"""Which tracker an address belongs to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from c2srt.hints import shell
from c2srt.redact import redacted
from c2srt.tracking.sink import Sink


@dataclass(frozen=True)
class Kind:
    """`sink`: the sink for an address and a run's folder. `how_to_open`: the line that shows an
    address' runs in a browser: a command, or the address itself.
    """

    sink: Callable[[str, Path], Sink]
    how_to_open: Callable[[str], str]


def mlflow_sink(uri: str, folder: Path) -> Sink:
    # mlflow takes seconds to import, and a fork must not meet them half done
    from c2srt.tracking.mlflow_sink import MLflowSink

    return MLflowSink(uri, folder)


def mlflow_page(uri: str) -> str:
    if uri.startswith("http"):
        return uri
    return shell("mlflow", "ui", "--backend-store-uri", uri, "--port", "5000")


MLFLOW = Kind(mlflow_sink, mlflow_page)
KINDS: dict[str, Kind] = {}
"""By the scheme of an address; MLflow has all others (http, sqlite, postgresql, …)."""


def kind_of(uri: str) -> Kind:
    return KINDS.get(uri.partition(":")[0], MLFLOW)


def how_to_open(uri: str) -> str:
    """The line that shows the runs in a browser: a command, or the server's address."""
    return kind_of(uri).how_to_open(redacted(uri))
