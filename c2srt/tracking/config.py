"""what a verb is told of its record."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from c2srt.errors import UserError
from c2srt.keys import Mark, Takes, key
from c2srt.redact import has_credentials, redacted
from c2srt.scratch import beside
from c2srt.tracking.sqlite import address_of


@dataclass
class TrackingConfig:
    """Where MLflow records the run."""

    uri: str | None = key(
        None,
        "MLflow tracking URI; null: MLFLOW_TRACKING_URI, else a sqlite file in `work`",
        mark=Mark.HARMLESS,
        takes=Takes.ADDRESS,
    )
    experiment: str = key(
        "c2srt", "MLflow's experiment", mark=Mark.HARMLESS, follows="${data.name}"
    )
    name: str | None = key(
        None, "name of the run; null: that of the folder `out`, below `work`", mark=Mark.HARMLESS
    )
    parent: str | None = key(
        None,
        (
            "name of a run that this one becomes a child of, made if absent: "
            "seeds and ablations of one table"
        ),
        mark=Mark.HARMLESS,
    )
    model: bool = key(
        True,
        (
            "whether the finished model is logged, a copy of <out>/model that "
            "`mlflow models serve` takes"
        ),
        mark=Mark.HARMLESS,
    )
    register: str | None = key(
        None, "name under which the model is registered, too", mark=Mark.HARMLESS
    )

    def __post_init__(self) -> None:
        if self.uri and has_credentials(self.uri):
            raise UserError(
                f"tracking.uri={redacted(self.uri)} holds a password, and settings are written"
                " down: leave it out there and set MLFLOW_TRACKING_USERNAME and"
                " MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_URI as a whole"
            )
        if self.register and not self.model:
            raise UserError(f"tracking.register={self.register} needs tracking.model=true")

    def named(self, out: Path, work: Path) -> str:
        """The run's name: `name`, else where `out` lies below `work`, else its last two parts."""
        inside = out.absolute().is_relative_to(work.absolute())
        place = out.absolute().relative_to(work.absolute()) if inside else Path(*out.parts[-2:])
        return self.name or str(place)

    def store(self, work: str, environment: Mapping[str, str]) -> str:
        """The MLflow store: `uri`, else MLFLOW_TRACKING_URI, else a sqlite file in `work`
        (absolute), or on this machine where `work` is in a store.
        """
        return (
            self.uri
            or environment.get("MLFLOW_TRACKING_URI")
            or address_of(beside(Path(work)) / "mlflow.db")
        )
