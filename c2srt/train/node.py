"""What one machine is doing: read by the first rank of each node, brought together in nodes.py."""

import contextlib
import math
import socket
import time

import psutil

MIB = 2**20
KINDS = (
    "cpu_utilization_percentage",
    "system_memory_usage_percentage",
    "system_memory_usage_megabytes",
    "disk_usage_percentage",
    "network_receive_megabytes_per_s",
    "network_transmit_megabytes_per_s",
)
GPU_KINDS = (
    "utilization_percentage",
    "memory_usage_percentage",
    "memory_usage_megabytes",
    "power_usage_watts",
    "temperature_celsius",
)
"""MLflow's own names where it has one."""


class Node:
    """The machine of this process. What is a rate is a mean since the last `read`."""

    def __init__(self) -> None:
        self.name, self._gpus = socket.gethostname(), gpus()
        self.gpus = len(self._gpus)
        psutil.cpu_percent()
        self._sent, self._read = psutil.net_io_counters(), time.monotonic()

    def read(self) -> list[float]:
        """The values of KINDS, then of GPU_KINDS for one GPU after the other: percent, MiB, W, °C;
        NaN for what the machine does not tell.
        """
        memory = psutil.virtual_memory()
        values = [
            psutil.cpu_percent(),
            memory.percent,
            memory.used / MIB,
            psutil.disk_usage(".").percent,
            *self._network(),
        ]
        return values + [value for gpu in self._gpus for value in read_gpu(gpu)]

    def _network(self) -> tuple[float, float]:
        """MiB/s received and sent."""
        before, began = self._sent, self._read
        self._sent, self._read = psutil.net_io_counters(), time.monotonic()
        if not before or not self._sent:
            return math.nan, math.nan
        scale = MIB * max(self._read - began, 1e-3)
        received, sent = before.bytes_recv, before.bytes_sent
        return (self._sent.bytes_recv - received) / scale, (self._sent.bytes_sent - sent) / scale


def gpus() -> list:
    """NVML's handles of the node's GPUs; [] without NVML or a driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return [
            pynvml.nvmlDeviceGetHandleByIndex(number)
            for number in range(pynvml.nvmlDeviceGetCount())
        ]
    # no driver, no permission, a container without the device: then there is nothing to say of GPUs
    except Exception:
        return []


def read_gpu(gpu) -> list[float]:
    """The values of GPU_KINDS; NaN for what this GPU does not tell (a MIG slice, a passively cooled
    one).
    """
    import pynvml

    used, share, busy, watts, degrees = [math.nan] * 5
    with contextlib.suppress(pynvml.NVMLError):
        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        used, share = memory.used / MIB, 100 * memory.used / memory.total
    with contextlib.suppress(pynvml.NVMLError):
        busy = float(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu)
    with contextlib.suppress(pynvml.NVMLError):
        watts = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
    with contextlib.suppress(pynvml.NVMLError):
        degrees = float(pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU))
    return [busy, share, used, watts, degrees]
