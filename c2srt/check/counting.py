"""What a piece of work asks of a GPU, counted where there is none: torch shows every call of an
operator to a mode, on a CPU as well.

A launch is an operator that computes: no view, no mere allocation; or a Triton kernel, whose
inside, run by the interpreter, does not count. A read is what makes the host wait until the device
has come so far: a value as a Python number, a size that depends on values, a tensor as a list or an
array.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

READS = {"_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero", "unique_dim"}
READS |= {"_unique2", "unique_consecutive"}
LISTS = ("tolist", "numpy", "cpu")
"""Methods of a tensor that bring it to the host. On a CPU they call no operator."""
NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach"}
NO_KERNEL |= {
    "promote_types",
    "_is_mkldnn_fp16_supported",
    "_unsafe_view",
    "_reshape_alias",
    "lift_fresh",
    "set_",
    "resize_",
    "alias",
}
TRITON = "triton"


class Counted(TorchDispatchMode):
    """Counts inside `with`, by operator: `launches`, Triton's kernels by their names under TRITON,
    and `reads`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in READS or masked(name, args):
            self.reads[name] += 1
        elif not func.is_view and name not in NO_KERNEL:
            self.launches[name] += 1
        return func(*args, **(kwargs or {}))

    @contextmanager
    def kernel(self, name: str) -> Iterator[None]:
        """Counts a kernel, and nothing that happens inside."""
        self.launches[f"{TRITON} {name}"] += 1
        with _disable_current_modes():
            yield

    @property
    def totals(self) -> tuple[int, int, int]:
        """Operators, Triton's kernels, reads."""
        kernels = sum(n for name, n in self.launches.items() if name.startswith(TRITON))
        return self.launches.total() - kernels, kernels, self.reads.total()


def masked(name: str, args: tuple) -> bool:
    """Whether an indexing asks which values of a mask are true."""
    return name in ("index", "index_put", "index_put_") and any(
        isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
    )


@contextmanager
def counted() -> Iterator[Counted]:
    """Counts what runs inside, on this thread."""
    with ExitStack() as stack:
        mode = Counted()
        for name in LISTS:
            stack.enter_context(patch.object(Tensor, name, reading(getattr(Tensor, name), mode)))
        if find_spec("triton"):
            from c2srt.model.kernels.watched import watched

            stack.enter_context(watched(mode.kernel))
        stack.enter_context(mode)
        yield mode


def reading(method: Callable, mode: Counted) -> Callable:
    """A method of a tensor that counts as a read, and whatever it calls does not."""

    def read(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        mode.reads[method.__name__] += 1
        with _disable_current_modes():
            return method(self, *args, **kwargs)

    return read
