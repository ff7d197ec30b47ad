"""Every figure: what it is made from, its numbers and their picture are one object.

A new figure needs: a line in FIGURES, a module here with `made_from` (what decides it; raises
Missing) and `numbers`, and one in draw/ with `draw`.
"""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol


class Numbers(Protocol):
    """What a figure shows."""

    def record(self) -> dict[str, Any]:
        """As JSON."""


@dataclass(frozen=True)
class Figure:
    """One file of `out`, without its suffix. `module` holds `made_from` and `numbers`, and draw/'s
    of the same name `draw`; where it makes several figures, `variant` says which. `compares`: it
    shows CLIP, ours and, if there is one, an MKT.

    Each module is imported when its figure is drawn: PyG and Grad-CAM take seconds.
    """

    stem: str
    module: str
    variant: str | None = None
    compares: bool = False

    def made_from(self, inputs: Any) -> dict[str, Any]:
        """What decides the figure, of c2srt.figures.inputs.Inputs. Raises Missing if some of it is
        not there.
        """
        return self.code.made_from(inputs, *self.variants)

    def numbers(self, inputs: Any) -> Numbers:
        return self.code.numbers(inputs, *self.variants)

    def draw(self, numbers: Numbers) -> Any:
        """A matplotlib figure."""
        return import_module(f"c2srt.figures.draw.{self.module}").draw(numbers)

    @property
    def code(self) -> ModuleType:
        return import_module(f"c2srt.figures.{self.module}")

    @property
    def variants(self) -> list[str]:
        return [] if self.variant is None else [self.variant]


def curve(name: str) -> Figure:
    return Figure(f"curves-{name}", "curves", name)


FIGURES = {
    "cam": (Figure("cam", "cam", compares=True),),
    "patches": (Figure("patches", "patches"),),
    "isr": (Figure("isr-patches", "patch_counts"), Figure("isr-ap", "ap_change")),
    "relations": (Figure("relations", "attention"),),
    "predictions": (Figure("predictions", "predictions", compares=True),),
    "novel": (Figure("novel", "novel", compares=True),),
    "graph": (Figure("graph", "graph"),),
    "curves": tuple(map(curve, ("neighbours", "threshold", "distillation"))),
}
"""The figures by the name that `figures` takes."""
