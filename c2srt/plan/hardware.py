"""A cluster in numbers, and the rates measured on a machine that replace them."""

import json
from dataclasses import dataclass, field, fields, replace

from c2srt.bounds import Amount
from c2srt.errors import UserError
from c2srt.hints import Command
from c2srt.opened import misfit, read_json
from c2srt.pages import calibration_of
from c2srt.shown import shown

GPU, CPU = "gpu", "cpu"
MEASURED = (
    "tflops",
    "bandwidth_gb_s",
    "vit_efficiency",
    "isr_efficiency",
    "ist_efficiency",
    "vit_overhead_ms",
    "isr_overhead_ms",
    "ist_overhead_ms",
    "step_overhead_ms",
    "decode_images_s",
)
"""What a calibration measures."""
MAY_BE_ZERO = (
    *("overhead_ms", "latency_us", "latency_ms", "reserved_gib"),
    *("start_s", "record_ms", "failures_gpu_day"),
)
STORAGE = ("read_latency_ms", "reads_s", "disk_gb_s")
"""What it measures where there are shards."""
Measured = dict[str, Amount | dict[str, Amount]]


@dataclass
class Cluster:
    """configs/cluster/h200.yaml explains every field; on a CPU `tflops` is of a core and `per_node`
    counts workers.
    """

    name: str = ""
    kind: str = GPU
    per_node: int = 8
    memory_gib: float = 1
    reserved_gib: float = 0
    tflops: dict[str, float] = field(default_factory=dict)
    bandwidth_gb_s: float = 1
    vit_efficiency: float = 1
    isr_efficiency: float = 1
    ist_efficiency: float = 1
    vit_overhead_ms: float = 0
    isr_overhead_ms: float = 0
    ist_overhead_ms: float = 0
    step_overhead_ms: float = 0
    link_gb_s: float = 1
    network_gb_s: float = 1
    latency_us: float = 0
    host_link_gb_s: float = 1
    host_bandwidth_gb_s: float = 1
    host_memory_gib: float = 1
    cores: int = 1
    decode_images_s: float = 1
    shard_images_s: float = 1
    disk_gb_s: float = 1
    read_latency_ms: float = 0
    reads_s: float = 1
    write_gb_s: float = 1
    start_s: float = 0
    record_ms: float = 0
    failures_gpu_day: float = 0

    def __post_init__(self) -> None:
        if self.kind not in (GPU, CPU):
            raise UserError(f"cluster.kind={self.kind} is neither {GPU} nor {CPU}")
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name.endswith(MAY_BE_ZERO):
                if value < 0:
                    raise UserError(f"cluster.{entry.name}={value} must be at least 0")
            elif isinstance(value, (int, float)) and value <= 0:
                raise UserError(f"cluster.{entry.name}={value} must be above 0")
        if bad := [name for name, value in self.tflops.items() if value <= 0]:
            raise UserError(f"cluster.tflops.{bad[0]}={self.tflops[bad[0]]} must be above 0")

    def rate(self, precision: str) -> float:
        """Floating-point operations a second of matrix products, of a GPU or of a core. Raises
        UserError if not given.
        """
        if precision not in self.tflops:
            raise UserError(
                f"cluster {self.name} has no rate for precision={precision}: give"
                f" cluster.tflops.{precision}=…"
            )
        return self.tflops[precision] * 1e12

    def nodes(self, devices: int) -> int:
        return -(-devices // self.per_node)


def calibrated(cluster: Cluster, path: str | None) -> Cluster:
    """The cluster with the rates of a calibration, a file or a kept page of `c2srt check`.

    Raises UserError if the file is absent, broken or of another machine.
    """
    if path is None:
        return cluster
    made_by = Command("plan", calibrate=True)
    content = read_json(calibration_of(path), made_by)
    values = content.get("values")
    if (
        not isinstance(values, dict)
        or not set(values) <= {*MEASURED, *STORAGE}
        or misfit(json.dumps(values), Measured)
    ):
        raise UserError(
            f"{path} is not a calibration of this version: make it again with `{made_by}`"
        )
    if content.get("kind") != cluster.kind:
        raise UserError(
            f"{path} was measured on a {shown(content.get('kind'))}, cluster={cluster.name} is a"
            f" {cluster.kind}: take a cluster=… of its kind, or calibrate there"
        )
    return replace(cluster, **values | {"tflops": cluster.tflops | values.get("tflops", {})})


def worker_threads(cores: int, workers: int, loader_workers: int) -> int:
    """Threads of each worker on a node without GPUs: the rule of c2srt/train/world.py."""
    share = max(1, cores // workers)
    return max(1, share - (loader_workers if share > 2 * loader_workers else 0))
