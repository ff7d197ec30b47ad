"""`c2srt bench loader`: images a second of one process, from shards that are in the page cache.

Every side decodes the same pictures, crops them at random to 224 × 224, turns their labels into
numbers and stacks batches, in this process and in what threads it starts; shards are opened anew in
every turn. What is timed is compared with the reader before it:

- c2srt against its literal twin, the mapped tar that it read before (c2srt/bench/mapped.py);
- c2srt with `latency` milliseconds added to each of its reads, against itself without, and the twin
  with the same (its two a picture). No read is served from the page cache then: a disk or a server
  that takes so long is slept for, the bytes are real;
- webdataset, Pillow, torchvision's crop and torch's DataLoader, where webdataset is installed.
"""

import atexit
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from c2srt.bench.config import Config
from c2srt.bench.drawn_shards import draw_shards
from c2srt.bench.mapped import MappedReader
from c2srt.loader import Batch, LoaderConfig, TrainingBatches, collate
from c2srt.profiling import Side
from c2srt.samples import Sample, Samples
from c2srt.shards import ShardIndex
from c2srt.storage.local import LocalFile
from c2srt.view_config import ViewConfig
from c2srt.views import decode, view_pixels
from c2srt.vocabulary import Vocabulary

SIZE, MICRO_BATCH, SPLIT = 224, 16, "train"


def loader(config: Config) -> list[Side]:
    """The sides, the ones with latency after that without."""
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="c2srt-loader-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    index, vocabulary = draw_shards(folder, config.pictures, config.seed)
    count = index.split(SPLIT)[0].count * len(index.split(SPLIT))
    side = partial(Side, images=count, numpy=True)
    ours, mapped = partial(Ours, index, vocabulary), partial(Mapped, index, vocabulary)
    sides = [
        side("mapped tar, a read at a time", mapped(0.0), baseline=True),
        side("c2srt", ours(0.0), baseline=True),
    ]
    for latency in config.latency:
        sides.append(side(f"c2srt, {latency:g} ms a read", ours(latency / 1e3)))
    for latency in config.latency:
        sides.append(side(f"mapped tar, {latency:g} ms a read", mapped(latency / 1e3)))
    if find_spec("webdataset"):
        sides.append(side("webdataset + Pillow + DataLoader", Peer(index, vocabulary)))
    return sides


class SlowFile(LocalFile):
    """A file on a disk whose every read takes `latency` seconds."""

    def __init__(self, latency: float, path: Path) -> None:
        self.latency = latency
        super().__init__(path)

    def now(self, offset: int, size: int) -> None:
        return None

    def attempt(self, offset: int, size: int) -> bytes:
        time.sleep(self.latency)
        return super().attempt(offset, size)


class Ours:
    """The batches of an epoch, as a training without loader processes makes them."""

    def __init__(self, index: ShardIndex, vocabulary: Vocabulary, latency: float) -> None:
        self.index, self.vocabulary, self.latency = index, vocabulary, latency

    def made(self) -> TrainingBatches:
        config = LoaderConfig(SIZE, MICRO_BATCH, MICRO_BATCH, split=SPLIT, workers=0)
        made = TrainingBatches(config, self.index, self.vocabulary, 0, 1, None)
        if self.latency:
            shards = self.index.split(SPLIT)
            categories, opens = self.vocabulary.seen_count, partial(SlowFile, self.latency)
            made.samples = Samples(
                self.index.folder, shards, self.vocabulary, categories, len(shards), opens
            )
        return made

    def __call__(self) -> list[Batch]:
        made = self.made()
        return list(made.batches(range(made.order.steps_per_epoch)))


class Mapped(Ours):
    """The same batches, of the literal reader."""

    def __call__(self) -> list[Batch]:
        made = self.made()
        shards = self.index.split(SPLIT)
        readers = [MappedReader(self.index.folder, shard, self.latency) for shard in shards]
        return [self.batch(made, readers, step) for step in range(made.order.steps_per_epoch)]

    def batch(self, made: TrainingBatches, readers: list[MappedReader], step: int) -> Batch:
        config = made.config
        taken = made.order.micro_batch(step, made.partition, 0)
        found = [
            self.sample(made.samples, readers[shard], sample)
            for shard, sample in zip(taken.shard, taken.sample, strict=True)
        ]
        images = [
            view_pixels(each.image, config.views, config.seed, each.id, 0, config.size)
            for each in found
        ]
        return collate(found, images, None, taken.weight, step, 0, 0)

    def sample(self, samples: Samples, reader: MappedReader, sample: int) -> Sample:
        image = decode(reader.jpeg(sample))
        return Sample(reader.ids[sample], image, samples.labels(reader.labels(sample)))


class Peer:
    """What a project writes that reads such shards with webdataset: its usual decoding, and
    torchvision's crop and flip with the views' settings.
    """

    def __init__(self, index: ShardIndex, vocabulary: Vocabulary) -> None:
        self.paths = [str(index.folder / f"{shard.name}.tar") for shard in index.split(SPLIT)]
        self.vocabulary = vocabulary

    def crop(self) -> Callable[[object], Tensor]:
        from torchvision.transforms import v2

        views = ViewConfig()
        scale, ratio = (views.scale_min, views.scale_max), (views.ratio_min, views.ratio_max)
        bicubic = v2.InterpolationMode.BICUBIC
        crop = v2.RandomResizedCrop(SIZE, scale, ratio, bicubic, antialias=True)
        return v2.Compose([crop, v2.RandomHorizontalFlip(), v2.PILToTensor()])

    def labels(self, found: dict) -> Tensor:
        row = np.zeros(self.vocabulary.seen_count, np.int8)
        for mids, value in ((found["positive"], 1), (found["negative"], -1)):
            row[[self.vocabulary.index[mid] for mid in mids]] = value
        return torch.from_numpy(row)

    def __call__(self) -> list:
        import webdataset

        samples = (
            webdataset.WebDataset(self.paths, shardshuffle=False)
            .shuffle(100)
            .decode("pilrgb")
            .to_tuple("jpg", "json")
            .map_tuple(self.crop(), self.labels)
            .batched(MICRO_BATCH)
        )
        return list(torch.utils.data.DataLoader(samples, batch_size=None))
