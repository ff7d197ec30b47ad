"""One task of many pictures: a part of them, ranked, and written as rows or sidecars."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from c2srt.executor import FEW_IMAGES
from c2srt.export.files import find_export
from c2srt.files import whole_file
from c2srt.predict.config import CLIP, Config
from c2srt.predict.decoding import Decoders
from c2srt.predict.finding import is_url
from c2srt.predict.inputs import Urls
from c2srt.predict.models import Asked
from c2srt.predict.predictor import Prediction, Predictor, load
from c2srt.predict.printed import as_json
from c2srt.predict.sources import Located, Source
from c2srt.predict.xmp import Sidecars
from c2srt.surroundings import cores

CPU_BATCH, GPU_BATCH = 16, 256
MOST_DECODERS = 32


@dataclass(frozen=True)
class Part:
    """One task: pictures, and the file that their rows go to."""

    number: int
    of: int
    sources: tuple[Source, ...]
    file: Path


@dataclass(frozen=True)
class Done:
    """What a task reports: how many pictures, how many of them could not be read, and why the first
    could not.
    """

    images: int
    failed: int = 0
    first: str = ""


@dataclass(frozen=True)
class Task:
    """What all tasks share: the config without the list of pictures, the `folder` in which the
    command runs, whether there are URLs, or so few pictures that they are read sooner than a
    decoder that resizes has started, and for out=xmp the sidecars.
    """

    config: Config
    folder: str
    urls: bool
    few: bool
    sidecars: Sidecars | None = None

    def place(self, source: Source) -> str:
        """A file's path for any process."""
        return os.path.join(self.folder, source.path)


def task_of(config: Config, sources: list[Source], sidecars: Sidecars | None = None) -> Task:
    """Paths as any process sees them. Raises UserError if there is no model."""
    checkpoint = config.checkpoint
    plain = replace(
        config,
        checkpoint=checkpoint if checkpoint == CLIP else str(find_export(checkpoint).absolute()),
        images=["-"],
        images_file=None,
        labels=config.asked,
        labels_file=None,
        clip=config.clip.absolute(),
    )
    urls, few = any(is_url(each.path) for each in sources), len(sources) <= FEW_IMAGES
    return Task(plain, os.getcwd(), urls, few, sidecars)


@dataclass(frozen=True)
class Loaded:
    """A model with its decoders, and what they were loaded for."""

    task: Task
    predictor: Predictor
    decoders: Decoders
    asked: Asked
    batch: int


LOADED: list[Loaded] = []
"""The last model of this process, which is given many parts."""


def loaded(task: Task) -> Loaded:
    """The model, loaded once in each process. Raises UserError."""
    if not LOADED or LOADED[0].task != task:
        forget()
        predictor, config = predictor_of(task.config), task.config
        LOADED[:] = [
            Loaded(
                task,
                predictor,
                decoders_of(config, predictor, config.download.concurrency * task.urls),
                predictor.asked(config.asked),
                batch_of(config, predictor),
            )
        ]
    return LOADED[0]


def forget() -> None:
    for each in LOADED:
        each.decoders.end()
    LOADED.clear()


def predictor_of(config: Config) -> Predictor:
    """Raises UserError if there is no such model or device."""
    predictor = load(
        config.checkpoint,
        config.words,
        config.device,
        config.precision,
        config.clip,
        config.chosen_templates,
        config.score,
    )
    predictor.fetch = Urls(config.download, config.workers)
    return predictor


def decoders_of(config: Config, predictor: Predictor, waits: int) -> Decoders:
    """As many as the model has use for beside itself."""
    own = cores() // config.workers
    on_cpu = predictor.device.type == "cpu"
    count = config.decoders or (1 if on_cpu else min(MOST_DECODERS, max(1, own)))
    return Decoders(count, predictor.model.clip.image_size, predictor.fetch, waits)


def batch_of(config: Config, predictor: Predictor) -> int:
    return config.batch or (CPU_BATCH if predictor.device.type == "cpu" else GPU_BATCH)


def do_part(shared: Callable[[], Task], part: Part) -> Done:
    """A task: ranks a part's pictures and writes their rows, or their sidecars."""
    task = shared()
    todo = [
        each
        for each in part.sources
        if not (task.sidecars and task.sidecars.is_done(task.place(each)))
    ]
    if not todo:
        return Done(len(part.sources))
    model, config = loaded(task), task.config
    images = (each.path if is_url(each.path) else Located(each, task.folder) for each in todo)
    one_by_one = map(model.predictor.read, images)
    read = iter(one_by_one) if task.few else model.decoders.all(images, model.batch)
    found = model.predictor.ranked(read, model.asked, config.topk, config.threshold, model.batch)
    errors = write_sidecars(task, todo, found) if task.sidecars else write_rows(part, found, model)
    return Done(len(part.sources), len(errors), errors[0] if errors else "")


def write_rows(part: Part, found: Iterable[Prediction], model: Loaded) -> list[str]:
    """The part's file; returns what could not be read, and why."""
    ids, errors = model.asked.id_of, []
    with whole_file(part.file) as temporary, temporary.open("w", encoding="utf-8") as file:
        for prediction in found:
            file.write(as_json(prediction, ids) + "\n")
            if prediction.error is not None:
                errors.append(f"{prediction.image}: {prediction.error}")
    return errors


def write_sidecars(task: Task, todo: list[Source], found: Iterable[Prediction]) -> list[str]:
    """A sidecar a picture; returns what could not be read, or tagged, and why."""
    assert task.sidecars is not None, "of out=xmp"
    errors = []
    for source, prediction in zip(todo, found, strict=True):
        tags = [label for label, _ in prediction.labels]
        error = prediction.error or task.sidecars.write(task.place(source), tags)
        if error is not None:
            errors.append(f"{source.name}: {error}")
    return errors
