"""How fast the nodes exchange gradients: an all-reduce over all of them, then pairs.

One rank a node, on its first GPU over NCCL where every node of the group has one, else over gloo:
the same libraries, network interfaces and variables as the training's. A message is as large as
fits into a fraction of a second, so that a slow link costs seconds and not minutes.

A process of its own: while torch is imported, and while a rank waits for a silent one, the probe
can answer. It reads orders from its standard input, ends when that is closed, and answers on what
was its standard output; what libraries print there goes to standard error.
"""

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from queue import SimpleQueue
from typing import Any

SMALL, LARGE = 256 << 10, 256 << 20
"""Bytes of the first and the largest message."""
AIM_S = 0.4
"""A message that takes this long is large enough."""
PAIR_S, PAIR_LARGE = 0.1, 64 << 20
TIMEOUT_S = 20


def torch_here() -> dict[str, Any]:
    """The GPUs that torch can use, and why it can use none."""
    import torch

    if torch.cuda.is_available():
        return {"gpus": torch.cuda.device_count(), "without": ""}
    if shutil.which("nvidia-smi") is None:
        return {"gpus": 0, "without": "no driver"}
    from c2srt.check.case import cuda_fault

    return {"gpus": 0, "without": cuda_fault()}


class Link:
    """This node's rank in the group of a check."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[..., dict[str, Any]]] = {
            "torch": torch_here,
            "host": self.host,
            "join": self.join,
            "all_reduce": self.all_reduce,
            "exchange": self.exchange,
        }

    def host(self, address: str) -> dict[str, Any]:
        """Opens the store at which the ranks meet; where it listens."""
        from torch.distributed import TCPStore

        self.store = TCPStore(
            address, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=TIMEOUT_S)
        )
        return {"port": self.store.port}

    def join(self, rank: int, size: int, address: str, port: int, gpus: bool) -> dict[str, Any]:
        """Makes the group."""
        import torch
        import torch.distributed as dist

        patience = timedelta(seconds=TIMEOUT_S)
        if rank:
            self.store = dist.TCPStore(address, port, is_master=False, timeout=patience)
        self.device = torch.device("cuda", 0) if gpus else torch.device("cpu")
        dist.init_process_group(
            "nccl" if gpus else "gloo",
            store=self.store,
            rank=rank,
            world_size=size,
            timeout=patience,
        )
        self.rank = rank
        dist.all_reduce(torch.ones(1, device=self.device))
        return {}

    def all_reduce(self) -> dict[str, Any]:
        """Bytes and seconds of the largest all-reduce that was tried: every rank tries the same."""
        import torch
        import torch.distributed as dist

        size = SMALL
        while True:
            content = torch.ones(size // 4, device=self.device)
            began = self.now()
            dist.all_reduce(content)
            took = torch.tensor([self.now() - began], device=self.device)
            dist.all_reduce(took, dist.ReduceOp.MAX)
            seconds = float(took)
            if seconds > AIM_S / 4 or size >= LARGE:
                return {"bytes": size, "seconds": seconds}
            size = min(4 * size, LARGE)

    def exchange(self, partner: int) -> dict[str, Any]:
        """Bytes a second, each way at once, with another rank; None where this one has none."""
        first = self.swap(partner, SMALL)
        first = max(first, self.told(partner, first))  # both choose the same size
        size = int(min(max(SMALL, SMALL / first * PAIR_S), PAIR_LARGE))
        return {"rate": size / self.swap(partner, size)}

    def swap(self, partner: int, size: int) -> float:
        """Seconds to send and receive that many bytes."""
        import torch

        return self.pass_on(partner, torch.ones(size // 4, device=self.device))[0]

    def told(self, partner: int, value: float) -> float:
        """The partner's number, for mine."""
        import torch

        content = torch.tensor([value], dtype=torch.float64, device=self.device)
        return float(self.pass_on(partner, content)[1])

    def pass_on(self, partner: int, content: Any) -> tuple[float, Any]:
        """Seconds, and what the partner sent."""
        import torch
        import torch.distributed as dist

        received = torch.empty_like(content)
        began = self.now()
        orders = [
            dist.P2POp(dist.isend, content, partner),
            dist.P2POp(dist.irecv, received, partner),
        ]
        for work in dist.batch_isend_irecv(orders):
            work.wait()
        return max(self.now() - began, 1e-6), received

    def now(self) -> float:
        """Seconds, once the device has done what it was told."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def answered(does: Callable[..., dict[str, Any]], order: dict[str, Any]) -> dict[str, Any]:
    """What it gives; what goes wrong is an answer, too."""
    try:
        return does(**order)
    # whatever a library raises is what the coordinator is to tell
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "no message")
        named = "" if type(error).__name__ == "UserError" else f"{type(error).__name__}: "
        return {"fault": f"{named}{first[:300]}"}


def main() -> None:
    """Answers until its standard input is closed."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    orders: SimpleQueue = SimpleQueue()
    threading.Thread(target=listen, args=(orders,), daemon=True).start()
    answered(torch_here, {})  # from a cold disk the import takes longer than all else
    link = Link()
    while True:
        order = orders.get()
        answers.write(json.dumps(answered(link.answers[order.pop("ask")], order)) + "\n")
        answers.flush()


def listen(orders: SimpleQueue) -> None:
    """Passes orders on, in a thread."""
    for line in sys.stdin:
        orders.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
