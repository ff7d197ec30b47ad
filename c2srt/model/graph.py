"""The categories and who is related to whom."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

KEPT = 8
Made = TypeVar("Made")


@dataclass
class Graph:
    """The categories that are scored: unit text features [C, D] and in-neighbours [C, K] (columns
    of C, −1 absent): an edge goes from a neighbour to the category that reads it.

    Neither changes, and what follows from them is made once (`once`), not in every micro-batch.
    """

    text: Tensor
    table: Tensor
    made: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)

    def to(self, device: torch.device) -> "Graph":
        if self.text.device == device and self.table.device == device:
            return self
        return Graph(self.text.to(device), self.table.to(device))

    def first(self, count: int) -> "Graph":
        """The graph of the first `count` categories (the seen ones, whose neighbours are seen)."""
        return self.once(("first", count), lambda: Graph(self.text[:count], self.table[:count]))

    def text_as(self, dtype: torch.dtype) -> Tensor:
        """The text in a type."""
        return self.once(("text", dtype), lambda: self.text.to(dtype))

    def once(self, name: Hashable, make: Callable[[], Made]) -> Made:
        """What make() gave when it was first asked for by this name; the last few are kept. A
        program that is traced keeps nothing.
        """
        if torch.compiler.is_exporting():
            return make()
        if name not in self.made:
            value = make()
            while len(self.made) >= KEPT:
                del self.made[next(iter(self.made))]
            self.made[name] = value
        return self.made[name]
