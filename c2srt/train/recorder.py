"""What is written down while training runs: progress line, metrics file, tracker, summary, loss
curve.
"""

import json
import resource
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from c2srt.files import write_json
from c2srt.progress import Progress
from c2srt.tracking import Tracker
from c2srt.train.config import SUMMARY
from c2srt.train.curve import draw_curve
from c2srt.train.engine import Update
from c2srt.train.nodes import Nodes
from c2srt.train.step_lines import forget_after
from c2srt.train.stragglers import Slow
from c2srt.train.world import World
from c2srt.versions import VERSIONS, versions

METRICS, CURVE = "metrics.jsonl", "loss.png"
OUTLIERS = "outliers"
"""A tag of the tracker's run, and a text in the metrics file while it is not empty: which nodes and
GPUs are unlike the others (nodes.py).
"""
Item = TypeVar("Item")


def peak_rss_mib() -> float:
    """The most memory this process ever held (resident, MiB); loader workers are processes of their
    own.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_gpu_mib() -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_initialized() else 0.0


class Recorder:
    """Collects updates between two `flush`es. Every rank has one and calls the same methods; rank 0
    writes.

    Metrics are means over ranks and over the updates since the last flush. `images` counts padding
    too. What the nodes are doing is read every `node_seconds`, at the first record after that.
    """

    def __init__(
        self,
        folder: Path,
        world: World,
        tracker: Tracker | None,
        start: int,
        steps: int,
        batch: int,
        node_seconds: float = 0,
    ) -> None:
        self.folder, self.world, self.tracker, self.start, self.batch = (
            folder,
            world,
            tracker,
            start,
            batch,
        )
        self.last: dict[str, float] = {}
        self.sums: dict[str, float] = {}
        self.updates, self.left_out, self.waited = 0, 0, 0.0
        self.begun = self.mark = time.monotonic()
        self.progress = Progress("train", steps * batch) if world.first else None
        self.nodes = Nodes(world, node_seconds)
        self.slow = Slow(self.nodes.of_ranks)
        if self.progress:
            self.progress.skip(start * batch)
            forget_after(folder / METRICS, start)

    def timed(self, items: Iterable[Item]) -> Iterator[Item]:
        """Passes items on, adding up the time spent waiting for them."""
        iterator = iter(items)
        while True:
            asked = time.monotonic()
            item = next(iterator, None)
            self.waited += time.monotonic() - asked
            if item is None:
                return
            yield item

    def add(self, update: Update, learning_rate: float) -> None:
        """Counts one update."""
        values = update.values | {"learning_rate": learning_rate}
        if update.applied:
            values["gradient_norm"] = update.gradient_norm
            for name, value in values.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            self.updates += 1
        self.left_out += not update.applied
        self.slow.add(update.own)
        if self.progress:
            shown = update.values["loss"]
            self.progress.update(
                self.batch,
                (f"loss {shown:.4f}" if update.applied else "update left out (non-finite)")
                + self.slow.said,
            )

    def flush(self, step: int) -> None:
        """Writes the metrics of the updates since the last flush as those of `step` (finished
        updates).
        """
        names = sorted(self.sums)
        elapsed = time.monotonic() - self.mark
        count = self.updates + self.left_out
        local = [self.sums[name] / max(1, self.updates) for name in names] + [
            self.waited / max(elapsed, 1e-9),
            self.nodes.waited(),
        ]
        *means, waiting, since = self.world.mean(local)
        own = [peak_rss_mib(), peak_gpu_mib(), self.slow.mean(count)]
        rows = self.world.rows(own + self.nodes.row(since))
        self.slow.compare(rows[:, 2].tolist())
        self.last = dict(zip(names, means, strict=True)) | {
            "images_per_s": count * self.batch / max(elapsed, 1e-9),
            "data_wait_share": waiting,
            "left_out_updates": float(self.left_out),
            "peak_rss_mib": float(rows[:, 0].max()),
            "peak_gpu_mib": float(rows[:, 1].max()),
        }
        if self.world.first:
            self.record_nodes(rows[:, len(own) :], step)
        self.write(self.last, step)
        self.sums, self.updates, self.left_out, self.waited, self.mark = (
            {},
            0,
            0,
            0.0,
            time.monotonic(),
        )

    def record_nodes(self, rows: np.ndarray, step: int) -> None:
        """Gives the tracker what the nodes are doing, if that was read (rank 0)."""
        before = self.nodes.note
        self.track(self.nodes.summary(rows), step)
        if self.tracker and self.nodes.note != before:
            self.tracker.tags({OUTLIERS: self.nodes.note or "none"})

    def write(self, values: dict[str, float], step: int) -> None:
        """Appends values to the metrics file and the tracker (rank 0)."""
        if self.world.first:
            more = {OUTLIERS: self.nodes.note} if self.nodes.note else {}
            with (self.folder / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values, **more}) + "\n")
        self.track(values, step)

    def track(self, values: dict[str, float], step: int) -> None:
        """Gives values to the tracker (rank 0), but for those of a step that a killed attempt had
        recorded before: it is done again, and a tracker would show it twice.
        """
        if self.tracker and (new := self.tracker.new(values, step)):
            self.tracker.metrics(new, step)

    @property
    def run_id(self) -> str | None:
        """The tracker's run, once the store has been reached (rank 0)."""
        return self.tracker.run_id if self.tracker else None

    def summary(self, state: str, step: int, more: dict[str, Any]) -> None:
        """Writes train.json, and at the end of the run closes the progress line and draws the
        curve.
        """
        memory = self.world.gather((peak_rss_mib(), peak_gpu_mib()))
        if not self.world.first:
            return
        seconds = time.monotonic() - self.begun
        write_json(
            self.folder / SUMMARY,
            {
                "state": state,
                "step": step,
                "seconds": seconds,
                "seconds_per_step": seconds / max(1, step - self.start),
                "images_per_s": (step - self.start) * self.batch / max(seconds, 1e-9),
                "peak_rss_mib": [rss for rss, _ in memory],
                "peak_gpu_mib": [gpu for _, gpu in memory],
                "metrics": self.last,
                "run_id": self.run_id,
                VERSIONS: versions(),
                **more,
            },
        )
        if self.progress:
            self.progress.close(f"loss {self.last['loss']:.4f}" if "loss" in self.last else "")
        draw_curve(self.folder / METRICS, self.folder / CURVE)
        for name in (SUMMARY, METRICS, CURVE):
            if self.tracker and (self.folder / name).exists():
                self.tracker.artifact(self.folder / name)
