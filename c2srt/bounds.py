"""Bounds of the numbers that a file of records may hold, for the shapes of c2srt.opened."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Within:
    """Bounds as pydantic understands them: annotated-types' GroupedMetadata, which is imported
    where a number is checked only, since a bare GPU machine (c2srt/check) has neither.
    """

    ge: float | None = None
    le: float | None = None
    gt: float | None = None
    __is_annotated_types_grouped_metadata__ = True

    def __iter__(self) -> Iterator[Any]:
        from annotated_types import Interval

        return iter(Interval(ge=self.ge, le=self.le, gt=self.gt))


Amount = Annotated[float, Within(ge=0, le=1e15)]
"""A number that is counted with: neither negative nor infinite nor NaN."""
Count = Annotated[int, Within(ge=0, le=2**53)]
