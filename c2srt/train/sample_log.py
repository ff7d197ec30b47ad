"""A record of the samples that a training consumed, for audits: `tracking.samples=true`.

    <out>/samples/rank-<r>.jsonl    one line an update: {"step": finished updates, "ids": real
                                    samples, in order}

Ranks take runs of the global batch, so the ids of a step are those of its ranks one after another,
whatever their number. A step's lines are written when its samples are handed over; a step that a
kill undid is dropped by the attempt that does it again. A finished run thus holds each step once.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from c2srt.errors import UserError
from c2srt.loader import Batch
from c2srt.train.step_lines import forget_after, read_step_lines

SAMPLES = "samples"


def recorded(
    batches: Iterator[Batch], folder: Path, rank: int, accumulation: int
) -> Iterator[Batch]:
    """Passes a rank's micro-batches on, and appends a line as soon as the last one of an update is
    asked for.
    """
    folder.mkdir(exist_ok=True)
    ids: list[str] = []
    with file_of(folder, rank).open("a", encoding="utf-8") as file:
        for batch in batches:
            ids += [
                image_id
                for image_id, weight in zip(batch.ids, batch.weights.tolist(), strict=True)
                if weight > 0
            ]
            if batch.accumulation == accumulation - 1:
                file.write(json.dumps({"step": batch.step + 1, "ids": ids}) + "\n")
                file.flush()
                ids = []
            yield batch


def forget_samples_after(folder: Path, step: int) -> None:
    """Drops the lines of steps that are done again, of all ranks of earlier attempts. For one
    process, while none appends.
    """
    for path in sorted(folder.glob("rank-*.jsonl")):
        forget_after(path, step)


def read_samples(folder: Path) -> dict[int, list[str]]:
    """The ids of every step, in the order of the global batch. Raises UserError where a rank has a
    step twice.
    """
    found: dict[int, dict[int, list[str]]] = {}
    for path in folder.glob("rank-*.jsonl"):
        rank = int(path.stem.removeprefix("rank-"))
        for line in read_step_lines(path):
            ranks = found.setdefault(line["step"], {})
            if rank in ranks:
                raise UserError(
                    f"{path} has step {line['step']} twice: two runs wrote into {folder.parent} at"
                    " the same time"
                )
            ranks[rank] = line["ids"]
    return {
        step: [image_id for rank in sorted(ranks) for image_id in ranks[rank]]
        for step, ranks in sorted(found.items())
    }


def file_of(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.jsonl"
