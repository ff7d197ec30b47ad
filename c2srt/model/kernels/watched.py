"""Sees each launch of a kernel, compiled or run by the interpreter."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction


@contextmanager
def watched(around: Callable[[str], AbstractContextManager]) -> Iterator[None]:
    """Inside, a kernel is launched within `around(its name)`."""
    with ExitStack() as stack:
        for kind in (InterpretedFunction, JITFunction):
            stack.enter_context(patch.object(kind, "run", launching(kind.run, around)))
        yield


def launching(run: Callable, around: Callable[[str], AbstractContextManager]) -> Callable:
    """Triton's `run` of a kernel within `around`."""

    def launched(self: Any, *args: Any, **kwargs: Any) -> Any:
        with around(self.fn.__name__):
            return run(self, *args, **kwargs)

    return launched
