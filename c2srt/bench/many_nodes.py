"""Rank 0 of a job of many nodes, all but this process made up: what it gathers is what they would
tell. For a benchmark, and for tests, of what rank 0 makes of it.
"""

import math
from typing import Any

import numpy as np
import torch

from c2srt.train.node import GPU_KINDS, KINDS
from c2srt.train.world import World

NODE = dict.fromkeys(KINDS, 30.0) | {"cpu_utilization_percentage": 40.0}
GPU = dict.fromkeys(GPU_KINDS, 60.0) | {"utilization_percentage": 93.0, "power_usage_watts": 600.0}


class ManyNodes(World):
    """A rank a GPU; `odd`: one GPU does nothing."""

    def __init__(self, nodes: int, gpus: int, odd: bool = False) -> None:
        super().__init__(0, nodes * gpus, gpus, torch.device("cpu"))
        values = self.table()
        if odd:
            place = len(KINDS) + len(GPU_KINDS) + GPU_KINDS.index("utilization_percentage")
            values[self.firsts[9], place] = 5
        vars(self)["values"] = values  # the dataclass is frozen

    @property
    def firsts(self) -> np.ndarray:
        """The first rank of each node."""
        return np.arange(0, self.size, self.local_size)

    @property
    def width(self) -> int:
        """Values of a node."""
        return len(KINDS) + self.local_size * len(GPU_KINDS)

    def table(self) -> np.ndarray:
        """What the ranks tell of their nodes, [ranks, values]: the first of each does."""
        found = np.full((self.size, self.width), math.nan)
        found[self.firsts] = [*NODE.values(), *list(GPU.values()) * self.local_size]
        return found

    def mean(self, values: list[float]) -> list[float]:
        return torch.tensor(values, dtype=torch.float64).tolist()

    def rows(self, values: list[float]) -> np.ndarray:
        own = torch.tensor(values, dtype=torch.float64).expand(self.size, len(values)).clone()
        found = own.numpy()
        if not math.isnan(values[-self.width]):
            found[:, -self.width :] = vars(self)["values"]
        return found

    def gather(self, value: Any) -> list[Any]:
        """What each rank tells first of its node: the name, and how many GPUs."""
        return [(f"node-{rank // self.local_size}", self.local_size) for rank in range(self.size)]
