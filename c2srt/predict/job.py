"""Many pictures, in parts: each is a task (in this process, in processes of this machine, or on a
Ray cluster), and waits on disk when done, so that a killed run goes on.

    <out>                           every picture once, in order: .jsonl, .csv or .parquet
    <out>.json                      what it was made from, and its SHA-256
    <out>-<key>/<part>.jsonl        of an unfinished run: the rows of a part, appears whole

A part is up to PART pictures that follow each other and lie in one archive, or in none: a shard's
are read in its order. Which pictures are in a part depends on nothing else, so that the bytes of
<out> are the same for any number of workers and kills.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import astuple
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from c2srt.artefact import FILES, making, remove_unfinished, unfinished_in, vouch, vouched
from c2srt.errors import UserError
from c2srt.executor import Executor, Opens
from c2srt.export.files import find_export, identity
from c2srt.files import hash_of, sha256_of_file
from c2srt.predict.config import ADOBE, AUTO, CLIP, Config
from c2srt.predict.finding import printable
from c2srt.predict.rows import assemble, rows_in
from c2srt.predict.sources import Source
from c2srt.predict.task import Done, Part, Task, do_part, forget, task_of
from c2srt.predict.xmp import Sidecars, check_names
from c2srt.progress import Progress

log = logging.getLogger(__name__)

PART = 256


def parts_of(sources: list[Source], folder: Path) -> list[Part]:
    """The tasks, in order."""
    pieces: list[tuple[Source, ...]] = []
    for _, group in groupby(sources, key=lambda source: source.path if source.member else ""):
        some = list(group)
        pieces += [tuple(some[start : start + PART]) for start in range(0, len(some), PART)]
    return [
        Part(number, len(pieces), piece, folder / f"{number:06}.jsonl")
        for number, piece in enumerate(pieces)
    ]


def made_from(config: Config, sources: list[Source]) -> dict[str, Any]:
    """What decides the rows. Raises UserError if there is no model."""
    return {
        "model": model_identity(config),
        "images": hash_of([(each.path, each.member, each.at) for each in sources]),
        "labels": hash_of(None if config.asked is None else [astuple(one) for one in config.asked]),
        "topk": config.topk,
        "threshold": config.threshold,
        "precision": config.precision,
        **({} if config.score == AUTO else {"score": config.score}),
        "words": [config.words.neighbours, config.words.model],
    }


def model_identity(config: Config) -> str:
    """Changes when a score would. Raises UserError if there is no model."""
    if config.checkpoint != CLIP:
        return identity(find_export(config.checkpoint))
    named = [config.clip.name, config.clip.pretrained]
    files = [sha256_of_file(Path(name)) for name in named if os.path.isfile(name)]
    return hash_of([named, files, config.chosen_templates])


def write_table(config: Config, sources: list[Source], opens: Opens) -> int:
    """Writes <out> with a row for every picture; returns how many could not be read. Raises
    UserError if another run's file stands there.
    """
    out = Path(str(config.out)).absolute()
    record, wanted = out.with_name(f"{out.name}.json"), made_from(config, sources)
    folder = out.with_name(f"{out.name}-{hash_of(wanted)}")
    if (found := current(out, record, wanted, folder)) is not None:
        log.info(f"{out} is up to date")
        return found
    with making(out):
        parts = parts_of(sources, folder)
        failed = run_parts(task_of(config, sources), parts, opens)
        with_ids = any(label.id for label in config.asked or ())
        assemble([part.file for part in parts], out, with_ids)
        content = {"made_from": wanted, "images": len(sources), "failed": failed}
        vouch(record, content, [out.name])
        remove_unfinished(out.parent, out.name)
    log.info(f"{out}: {len(sources):,} images, {failed:,} of them could not be read")
    return failed


def current(out: Path, record: Path, wanted: dict, folder: Path) -> int | None:
    """How many pictures could not be read, if `out` is whole and of this run; None if it is to be
    made. Raises UserError if what stands there is another run's, or nobody's.
    """
    content = vouched(record) if out.exists() else None
    if content is not None and out.name in content[FILES]:
        if content.get("made_from") == wanted:
            return int(content.get("failed", 0))
        raise UserError(other_run(out, content.get("made_from"), wanted))
    if out.exists() and not folder.exists():
        raise UserError(
            f"out={out} is there already, and not whole as this command wrote it: nothing in it was"
            " touched; choose another out=…, or remove it yourself"
        )
    for path in unfinished_in(out.parent, out.name):
        if path != folder:
            raise UserError(
                f"{path} has an unfinished run of other images, labels or another model: run that"
                f" command again, choose another out=…, or remove the folder yourself"
            )
    return None


def other_run(out: Path, old: Any, wanted: dict) -> str:
    differ = [name for name in wanted if not isinstance(old, dict) or old.get(name) != wanted[name]]
    return (
        f"out={out} is of another run ({', '.join(differ) or 'older'} differ): choose another"
        " out=…, or remove it yourself"
    )


def write_tags(config: Config, sources: list[Source], opens: Opens) -> int:
    """Writes a sidecar beside every picture; returns how many could not be read, or tagged. Raises
    UserError where a picture can have none.
    """
    decides = {name: value for name, value in made_from(config, []).items() if name != "images"}
    sidecars = Sidecars(config.sidecars == ADOBE, hash_of(decides))
    check_names(sidecars, sources)
    parts = parts_of(sources, Path())
    return run_parts(task_of(config, sources, sidecars), parts, opens)


def run_parts(task: Task, parts: list[Part], opens: Opens) -> int:
    """Does what is missing; returns how many pictures of all could not be read."""
    images, config = sum(len(part.sources) for part in parts), task.config
    whole = [part for part in parts if not task.sidecars and part.file.exists()]
    missing = [part for part in parts if part not in whole]
    progress, failed, first = Progress("predict", images), 0, ""
    for part in whole:
        progress.skip(len(part.sources))
        failed += failures_in(part.file)
    gpus = 0 if config.device == "cpu" or ":" in config.device else None
    with opens(config.workers, len(missing), images, gpus) as executor:
        for done in results(task, missing, executor):
            progress.update(done.images)
            failed, first = failed + done.failed, first or done.first
    progress.close()
    if first:
        log.warning(f"{failed:,} of {images:,} images failed, such as {printable(first)}")
    return failed


def results(task: Task, parts: list[Part], executor: Executor) -> Iterator[Done]:
    """What the tasks report, as they end."""
    do = partial(do_part, executor.share(task))
    try:
        for _, done in executor.map(do, parts, name_of_part, on_gpu=True):
            yield done
    finally:
        forget()  # where the tasks ran in this process


def name_of_part(part: Part) -> str:
    return f"predict {part.number} of {part.of}"


def failures_in(file: Path) -> int:
    """Rows that are errors of a part's file."""
    return sum("error" in row for row in rows_in(file))
