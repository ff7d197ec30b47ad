"""The words for a job's processes: `rank` of `size` in the whole job, `local_size` of them on this
node.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from c2srt.surroundings import cores


@dataclass(frozen=True)
class World:
    """This process among the ranks; torch.distributed is initialised by whoever makes one."""

    rank: int
    size: int
    local_size: int
    device: torch.device
    tags: dict[str, str] = field(default_factory=dict)
    """What the launcher knows of the job (Ray job id, …), for the tracker."""

    @property
    def first(self) -> bool:
        return self.rank == 0

    def set_threads(self, loader_workers: int) -> int:
        """Gives this process its share of the node's cores, less one a busy loader worker when
        there are enough.
        """
        own = cores() // self.local_size
        threads = max(1, own - (loader_workers if own > 2 * loader_workers else 0))
        torch.set_num_threads(threads)
        return threads

    def tell(self, value: int) -> Callable[[], int]:
        """Sends rank 0's number to every rank while they go on; what is returned waits for it."""
        number = torch.tensor([value], device=self.device)
        sent = dist.broadcast(number, 0, async_op=True)

        def heard() -> int:
            if sent is not None:  # it is, on every rank of the group
                sent.wait()
            return int(number.item())

        return heard

    def from_first(self, value: Any) -> Any:
        """Rank 0's value (a small Python object), on every rank."""
        held = [value]
        dist.broadcast_object_list(held, 0)
        return held[0]

    def mean(self, values: list[float]) -> list[float]:
        """Element by element over the ranks."""
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return (sums / self.size).tolist()

    def rows(self, values: list[float]) -> np.ndarray:
        """Every rank's numbers, as many on each, [size, numbers]; much cheaper than `gather`."""
        own = torch.tensor(values, dtype=torch.float64, device=self.device)
        found = own.new_empty(self.size * len(values))
        dist.all_gather_into_tensor(found, own)
        return found.reshape(self.size, -1).cpu().numpy()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value (small Python objects), in rank order, on every rank."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def barrier(self) -> None:
        dist.barrier()


def limit_waits(seconds: float) -> None:
    """Lets the process groups made from now on give up on a silent peer after `seconds`.

    Those that DeepSpeed makes would take torch's defaults instead of the first group's timeout: 30
    minutes on gloo, 10 on NCCL.
    """
    constants = dist.distributed_c10d
    constants.default_pg_timeout = constants.default_pg_nccl_timeout = timedelta(seconds=seconds)
