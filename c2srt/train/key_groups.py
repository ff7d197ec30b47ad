"""Groups of keys of `c2srt train` whose owners import torch or Ray, which a mistyped key need not
pay for. Beside their owners lie the rest: engine_config.py, schedule.py, c2srt/tracking/config.py.
"""

from dataclasses import dataclass

from c2srt.errors import UserError
from c2srt.keys import Mark, key, refuse_below
from c2srt.tracking.config import TrackingConfig


@dataclass
class OptimizerConfig:
    """AdamW's, for groups.py and engine.py."""

    lr: float = key(
        0.001,
        (
            "AdamW's peak learning rate: the ViT's output side (and the head's, "
            "when head_lr is null)"
        ),
    )
    head_lr: float | None = key(None, "AdamW's peak learning rate of the head; null: lr")
    weight_decay: float = key(0.005, "not on vectors and biases")
    layer_decay: float = key(0.65, "learning rate × this for each block further from the output")
    clip_grad_norm: float = key(1.0, "0: no clipping")

    def __post_init__(self) -> None:
        refuse_below(self, 0, "optimizer", "lr", "weight_decay", "clip_grad_norm")
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"optimizer.layer_decay={self.layer_decay} must be in (0, 1]")

    @property
    def peak_of_head(self) -> float:
        return self.lr if self.head_lr is None else self.head_lr


@dataclass
class CheckpointConfig:
    """For loop.py and checkpoints.py."""

    every: int = key(
        0,
        "updates between checkpoints; 0: by `seconds` alone (the last update always saves one)",
        mark=Mark.HARMLESS,
    )
    seconds: float = key(
        600,
        "time after a checkpoint until the next one, whatever `every` says; 0: by `every` alone",
        unit="s",
        mark=Mark.HARMLESS,
    )
    keep: int = key(2, "checkpoints kept", mark=Mark.HARMLESS)

    def __post_init__(self) -> None:
        refuse_below(self, 0, "checkpoints", "every", "seconds")
        refuse_below(self, 1, "checkpoints", "keep")


@dataclass
class ValidationConfig:
    """For validation.py."""

    every: int = key(
        0,
        (
            "updates between validations (0: none); the best by mAP over seen "
            "categories goes to <out>/best"
        ),
        mark=Mark.HARMLESS,
    )
    images: int = key(2000, "at most this many images of the validation split", mark=Mark.HARMLESS)

    def __post_init__(self) -> None:
        refuse_below(self, 0, "validation", "every")
        refuse_below(self, 1, "validation", "images")


@dataclass
class LoaderKeys:
    """For sources.py, which makes the loader's own config."""

    workers: int = key(
        1,
        "decoding processes of each worker; 0: in the worker itself",
        mark=Mark.HARMLESS,
    )
    cache: str | None = key(
        None,
        "folder on a disk of the node to which shards are copied ahead of the training; of use"
        " where a node reads whole ones: on one node, or with schedule.streams",
        mark=Mark.HARMLESS,
    )
    cache_gb: float = key(200, "the most that the cache holds", unit="GB", mark=Mark.HARMLESS)

    def __post_init__(self) -> None:
        refuse_below(self, 0, "loader", "workers")
        refuse_up_to_0(self, "loader", "cache_gb")


@dataclass
class ResourceConfig:
    """What a worker holds of a Ray cluster, for cluster/attempts.py."""

    gpus_per_worker: float = key(0, "1 on a GPU cluster", mark=Mark.HARMLESS)
    cpus_per_worker: float = key(
        1,
        "what Ray reserves for each; 1 + loader.workers where other jobs share the cluster",
        mark=Mark.HARMLESS,
    )

    def __post_init__(self) -> None:
        refuse_below(self, 0, "resources", "gpus_per_worker")
        refuse_up_to_0(self, "resources", "cpus_per_worker")

    @property
    def share(self) -> float:
        """Of a GPU that several workers share; else 1."""
        return self.gpus_per_worker if 0 < self.gpus_per_worker < 1 else 1


@dataclass
class FaultConfig:
    """Fault tolerance, for cluster/attempts.py, loop.py and world.py."""

    min_workers: int | None = key(
        None,
        (
            "go on with as few as these after start_timeout, when nodes are "
            "gone; null: all workers are needed"
        ),
        mark=Mark.HARMLESS,
    )
    start_timeout: float = key(
        300,
        "how long to wait for nodes to come, or for places that other jobs hold",
        unit="s",
        mark=Mark.HARMLESS,
    )
    collective_timeout: float = key(
        600,
        "silence of a worker (stopped, hung, cut off) after which all are started again",
        unit="s",
        mark=Mark.HARMLESS,
    )
    max_failures: int = key(
        3,
        "failures in a row without a newer checkpoint before giving up",
        mark=Mark.HARMLESS,
    )
    max_nonfinite: int = key(
        20,
        "updates left out in a row, for a non-finite loss or gradient, before the run stops",
        mark=Mark.HARMLESS,
    )

    def __post_init__(self) -> None:
        refuse_below(self, 1, "faults", "max_nonfinite")
        refuse_below(self, 0, "faults", "start_timeout", "max_failures")
        refuse_up_to_0(self, "faults", "collective_timeout")


@dataclass
class RecordConfig(TrackingConfig):
    """What a training writes down while it runs, and where MLflow records it."""

    every: int = key(
        0,
        "updates between entries in metrics.jsonl and MLflow; 0: by `seconds` alone",
        mark=Mark.HARMLESS,
    )
    seconds: float = key(
        5,
        "time after an entry until the next one, whatever `every` says; 0: by `every` alone",
        unit="s",
        mark=Mark.HARMLESS,
    )
    node_seconds: float = key(
        30,
        "time between two looks at what the nodes are doing (page System metrics), taken with the"
        " next entry; 0: with every one",
        unit="s",
        mark=Mark.HARMLESS,
    )
    samples: bool = key(
        False,
        "the image ids of every update in <out>/samples, for audits: a write a step",
        mark=Mark.HARMLESS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_below(self, 0, "tracking", "every", "seconds", "node_seconds")


def refuse_up_to_0(config: object, group: str, name: str) -> None:
    """Raises UserError unless the key is above 0."""
    if getattr(config, name) <= 0:
        raise UserError(f"{group}.{name}={getattr(config, name)} must be above 0")
