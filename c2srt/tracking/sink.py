"""What a tracker must do for the journal to reach it.

A new tracker needs: a file with a class of these four methods (mlflow_sink.py is MLflow's), and a
line in sinks.py that says which addresses (`tracking.uri`) are its own.
"""

from typing import Any, Protocol

DESCRIPTION = "description"
"""The tag that describes a run in a sentence or two."""


class NeedsHelp(Exception):
    """Nothing can be sent before a person has done what the message says."""


class Sink(Protocol):
    """Where a run is recorded. Entries are those of the journal (journal.py); the paths in them are
    relative to its folder.

    Only the process that sends calls it, in one thread. Every method may raise whatever happens:
    the entry is sent again later. So every method may be repeated without harm, also by a process
    that does not know how far a killed one came.
    """

    def open(self, opening: dict[str, Any]) -> str:
        """The id of the run with this opening's token, made if absent, with all its parameters.

        Raises NeedsHelp where trying again does not help before a person has done something.
        """
        ...

    def knows(self, run_id: str) -> bool:
        """Whether the run is still there; else it is opened anew and gets the whole record."""
        ...

    def send(self, run_id: str, batch: list[dict[str, Any]]) -> None:
        """Takes neighbouring metrics entries, or one entry of another sort (tags, params, artifact,
        model, status), in the journal's order. Sorts that it has no place for it passes over.
        """
        ...

    def refused(self, error: Exception) -> bool:
        """Whether an error of `send` is due to what was sent, so that sending it again would not
        help.
        """
        ...
