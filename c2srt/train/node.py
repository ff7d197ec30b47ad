"""What a node is doing, for MLflow's page "System metrics": read by one rank of each node, recorded
by rank 0.

Through rank 0 since a sqlite store must not be opened by several hosts, and so that an absent store
loses nothing.
"""

import contextlib
import socket

import psutil

MIB = 2**20


class Node:
    """The machine of this process. `read` gives means since the last call, under MLflow's own
    names.
    """

    def __init__(self) -> None:
        self.name, self._gpus = socket.gethostname(), gpus()
        psutil.cpu_percent()
        self._network = psutil.net_io_counters()

    def read(self) -> dict[str, float]:
        """Percent, or MiB where a name says megabytes; the network's since the last call."""
        memory, disk, network = (
            psutil.virtual_memory(),
            psutil.disk_usage("."),
            psutil.net_io_counters(),
        )
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_percentage": memory.percent,
            "system_memory_usage_megabytes": memory.used / MIB,
            "disk_usage_percentage": disk.percent,
        }
        if network and self._network:
            values["network_receive_megabytes"] = (
                network.bytes_recv - self._network.bytes_recv
            ) / MIB
            values["network_transmit_megabytes"] = (
                network.bytes_sent - self._network.bytes_sent
            ) / MIB
        self._network = network
        for number, gpu in enumerate(self._gpus):
            values |= {f"gpu_{number}_{name}": value for name, value in read_gpu(gpu).items()}
        return {f"system/{self.name}/{name}": float(value) for name, value in values.items()}


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


def read_gpu(gpu) -> dict[str, float]:
    """Utilisation, memory and power of one GPU; what this GPU does not tell (a MIG slice, a
    passively cooled one) is left out.
    """
    import pynvml

    values: dict[str, float] = {}
    with contextlib.suppress(pynvml.NVMLError):
        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        values |= {
            "memory_usage_percentage": 100 * memory.used / memory.total,
            "memory_usage_megabytes": memory.used / MIB,
        }
    with contextlib.suppress(pynvml.NVMLError):
        values["utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
    with contextlib.suppress(pynvml.NVMLError):
        values["power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
    return values
