"""`c2srt bench predict`: what ranking costs beside decoding, with a model that costs nothing.

The last side is `c2srt predict out=x.jsonl` with one decoder: files found, read, decoded in a
process apart, batched, ranked by a stub, and written. It is compared with the same decoder alone;
that with decoding in this process, one picture after the other. (The CPU's seconds are this
process's.)
"""

import atexit
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from c2srt.bench.config import Config
from c2srt.bench.drawn_photographs import COUNT, photographs
from c2srt.predict.config import Config as PredictConfig
from c2srt.predict.decoding import Decoders, pixels
from c2srt.predict.inputs import LIMITS
from c2srt.predict.job import parts_of
from c2srt.predict.models import Asked
from c2srt.predict.predictor import Predictor
from c2srt.predict.rows import assemble
from c2srt.predict.sources import find_sources
from c2srt.predict.task import CPU_BATCH, LOADED, Loaded, Task, do_part
from c2srt.profiling import Side

SIZE = 224
LABELS = [f"word {number}" for number in range(100)]


class Stub:
    """A model that scores by a single sum."""

    def __init__(self) -> None:
        self.clip = SimpleNamespace(image_size=SIZE)

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        pass

    def asked(self, labels: Any) -> Asked:
        return Asked(LABELS)

    def scores(self, images: Tensor, asked: Asked) -> Tensor:
        return images[:, 0, 0, :1].float() + torch.arange(len(LABELS))


def predict(config: Config) -> list[Side]:
    """COUNT photographs decoded by this process, by a decoder's process, and ranked."""
    torch.set_num_threads(1)  # as the decoder's process, which is compared with this one
    folder = Path(tempfile.mkdtemp(prefix="c2srt-predict-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    paths = photographs(folder, config.seed)
    ranked = Ranked(folder)
    return [
        Side("decoding, in this process", lambda: decoded(paths), COUNT, numpy=True, baseline=True),
        Side("decoding alone", lambda: ranked.read(paths), COUNT, numpy=True, baseline=True),
        Side("predict, a model that costs nothing", ranked, COUNT, numpy=True),
    ]


def decoded(paths: list[Path]) -> None:
    for path in paths:
        pixels(path.read_bytes(), LIMITS, SIZE)


class Ranked:
    """`c2srt predict images=<folder> out=x.jsonl` with the stub in the place of a loaded model."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        given = PredictConfig("stub", images=[str(folder)])
        self.task = Task(given, str(folder), urls=False, few=False)
        predictor = Predictor(cast(Any, Stub()), "cpu")
        decoders = Decoders(1, SIZE, predictor.fetch)
        atexit.register(decoders.end)
        self.loaded = Loaded(self.task, predictor, decoders, Asked(LABELS), CPU_BATCH)

    def read(self, paths: list[Path]) -> None:
        """Nothing but what its decoder does."""
        for _ in self.loaded.decoders.all(paths, CPU_BATCH):
            pass

    def __call__(self) -> None:
        LOADED[:] = [self.loaded]
        shutil.rmtree(self.out, ignore_errors=True)
        parts = parts_of(find_sources([str(self.folder)])[0], self.out)
        for part in parts:
            do_part(lambda: self.task, part)
        assemble([part.file for part in parts], self.out / "all.jsonl", False)
