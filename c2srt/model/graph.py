"""The categories and who is related to whom."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Graph:
    """The categories that are scored: unit text features [C, D] and in-neighbours [C, K] (columns
    of C, −1 absent): an edge goes from a neighbour to the category that reads it.
    """

    text: Tensor
    table: Tensor

    def to(self, device: torch.device) -> "Graph":
        return Graph(self.text.to(device), self.table.to(device))

    def first(self, count: int) -> "Graph":
        """The graph of the first `count` categories (the seen ones, whose neighbours are seen)."""
        return Graph(self.text[:count], self.table[:count])
