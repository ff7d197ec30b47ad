"""Which tracker an address belongs to."""

from collections.abc import Callable
from dataclasses import dataclass

from c2srt.hints import shell
from c2srt.redact import redacted


@dataclass(frozen=True)
class Kind:
    """`sink`: "module:class" of the sink (sink.py), which the process that sends imports, made from
    an address and a run's folder. `how_to_open`: the line that shows an address' runs in a browser:
    a command, or the address itself.
    """

    sink: str
    how_to_open: Callable[[str], str]


def mlflow_page(uri: str) -> str:
    if uri.startswith("http"):
        return uri
    return shell("mlflow", "ui", "--backend-store-uri", uri, "--port", "5000")


MLFLOW = Kind("c2srt.tracking.mlflow_sink:MLflowSink", mlflow_page)
KINDS: dict[str, Kind] = {}
"""By the scheme of an address; MLflow has all others (http, sqlite, postgresql, …)."""


def kind_of(uri: str) -> Kind:
    return KINDS.get(uri.partition(":")[0], MLFLOW)


def how_to_open(uri: str) -> str:
    """The line that shows the runs in a browser: a command, or the server's address."""
    return kind_of(uri).how_to_open(redacted(uri))
