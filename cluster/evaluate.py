"""`c2srt evaluate`: scores the test shards in pieces under Ray, merges them into results.json.

A piece is a fixed run of images, the same for any number of workers, and waits on disk when done,
so a killed run goes on.
    <out>/pieces-<key>/<piece>.npz          the piece's `Part`
    <out>/pieces-<key>/<piece>.scores.npy   float32 [images, C], only for the dense protocol
<key> is a hash of everything that decides them; the folder goes once results.json is written.
"""

import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import ray
import torch

from c2srt.artefact import remove_unfinished, tidy, unfinished, vouched, writing
from c2srt.errors import UserError
from c2srt.evaluation.arrays import evaluate_arrays
from c2srt.evaluation.config import PROTOCOLS, Config
from c2srt.evaluation.dense import COUNT_IMAGES, Thresholds, thresholds_of
from c2srt.evaluation.describe import describe
from c2srt.evaluation.part import check_topk, load_part, measure, merge
from c2srt.evaluation.results import (
    PER_CATEGORY,
    RESULTS,
    Task,
    about,
    evaluate_part,
    flat,
    read_results,
    write_results,
)
from c2srt.evaluation.scorers import (
    CLIP,
    PRIOR,
    Subject,
    class_counts,
    identity,
    load_scorer,
    prior_of,
)
from c2srt.export.files import CONFIG_FILE, find_export
from c2srt.files import hash_of, sha256_of_file, whole_file
from c2srt.hints import Command
from c2srt.loader import LoaderConfig, evaluation_batches
from c2srt.opened import open_npy, read_json
from c2srt.progress import Progress
from c2srt.shards import Shard, ShardIndex, load_index
from c2srt.tracking import RUN, Journal, Tracker, send_rest
from c2srt.vocabulary import Vocabulary, check_same_vocabulary, load_vocabulary
from cluster.address import check_address
from cluster.paths import check_lasting
from cluster.session import connect, run_tasks

PIECE_IMAGES, LEAST_PIECES = 512, 8
PIECES = "pieces"


@dataclass(frozen=True)
class Piece:
    """One task: images `number` · N / `of` … of the split, its files below `folder`. Sent to a
    worker.
    """

    number: int
    of: int
    folder: Path
    subject: Subject
    shards: Path
    config: Config

    @property
    def part(self) -> Path:
        return self.folder / f"{self.number:06}.npz"

    @property
    def scores(self) -> Path:
        return self.folder / f"{self.number:06}.scores.npy"

    @property
    def done(self) -> bool:
        return self.part.exists() and ("dense" not in self.config.protocols or self.scores.exists())


def run(config: Config) -> None:
    """Writes results.json and per_category.csv and prints the results. Raises UserError on bad
    input.
    """
    check_lasting(config.out)
    protocols = tuple(name for name in PROTOCOLS if name in config.protocols)
    if config.scores is not None:
        files = {name: Path(getattr(config, name)) for name in ("scores", "labels", "seen")}
        results, table = evaluate_arrays(
            **files,
            topk=tuple(config.topk),
            protocols=protocols,
            draws=config.bootstrap,
            seed=config.seed,
            workers=config.workers,
        )
        made_from = {name: sha256_of_file(path) for name, path in files.items()}
        results = {"checkpoint": None, "vocabulary": None, **results, "made_from": made_from}
        with writing(Path(config.out)):
            write_results(Path(config.out), results, table.with_row_index("column"))
    else:
        check_address()
        results = evaluate_shards(config, protocols)
    print(describe(results))
    print(f"written to {config.out}/")


def evaluate_shards(config: Config, protocols: tuple[str, ...]) -> dict:
    """Scores the split with a checkpoint, or reads the results if they are up to date."""
    shards, out = Path(config.shards).absolute(), Path(config.out).absolute()
    index, vocabulary = load_index(shards), load_vocabulary(shards)
    check_same_vocabulary(vocabulary, index.vocabulary, shards / "index.json", Command("shard"))
    seen = np.arange(len(vocabulary)) < vocabulary.seen_count
    check_topk(seen, tuple(config.topk))
    index.split(config.split)
    subject = subject_of(config, vocabulary)
    made_from = {
        "subject": identity(subject, index),
        "shards": index.source,
        "split": config.split,
        "vocabulary": vocabulary.hash,
        "topk": config.topk,
        "protocols": protocols,
        "batch": config.batch,
        "bootstrap": [config.bootstrap, config.seed],
    }
    key = hash_of(made_from)
    if (found := current(out, key)) is not None:
        print(f"{out / RESULTS} is up to date")
        tidy(out, PIECES)
        track(config, found, new=False)
        return found
    with writing(out):
        results, table = measured(
            config, protocols, index, vocabulary, subject, made_from | {"key": key}
        )
        write_results(out, results, table)
        remove_unfinished(out, PIECES)
    track(config, results, new=True)
    return results


def current(out: Path, key: str) -> dict | None:
    """The results in `out` if they are whole and have this key."""
    with suppress(UserError):  # what cannot be read is written anew
        if vouched(out / RESULTS) and (results := read_results(out))["made_from"].get("key") == key:
            return results
    return None


def measured(
    config: Config,
    protocols: tuple[str, ...],
    index: ShardIndex,
    vocabulary: Vocabulary,
    subject: Subject,
    made_from: dict,
) -> tuple[dict, pl.DataFrame]:
    """Scores what is missing and measures all of it: results.json's content and the per-category
    table. `made_from` holds the subject's identity: what the workers load must have it, at the end
    too. Raises UserError where it has changed.
    """
    if subject.checkpoint == PRIOR:
        subject = replace(subject, prior=count_prior(config.workers, index, vocabulary))
    subject = replace(subject, identity=made_from["subject"])
    folder = unfinished(Path(config.out).absolute(), PIECES, made_from["key"])
    images = sum(shard.count for shard in index.split(config.split))
    pieces = pieces_of(images, folder, subject, index.folder, config)
    part, thresholds, at_least = score(pieces, images, config, protocols, len(vocabulary))
    check_identity(subject, index)
    if load_index(index.folder) != index:
        raise UserError(
            f"{index.folder} was written anew while it was evaluated: run the same command again"
        )
    seen = np.arange(len(vocabulary)) < vocabulary.seen_count
    task = Task(seen, tuple(config.topk), protocols, config.bootstrap, config.seed)
    results, table = evaluate_part(part, task, thresholds, at_least)
    results = {
        "checkpoint": config.checkpoint,
        "vocabulary": vocabulary.hash,
        **results,
        **about(vocabulary, config.split),
        "made_from": made_from,
    }
    table.insert_column(0, pl.Series("mid", vocabulary.mids)).insert_column(
        1, pl.Series("name", vocabulary.titles)
    )
    return results, table


def track(config: Config, results: dict, new: bool) -> None:
    """Adds the results to the MLflow run of the training that made the checkpoint, if it left one
    beside it; of results that are not `new`, what an earlier call did not come to.
    """
    if config.checkpoint in (CLIP, PRIOR):
        return
    path, key = find_export(config.checkpoint).absolute(), results["made_from"]["key"]
    folder = next((folder for folder in (path, path.parent) if (folder / RUN).is_file()), None)
    if folder is None:
        return
    marks = {part: f"{key}/{part}" for part in ("metrics", RESULTS, PER_CATEGORY)}
    done = set() if new else {entry.get("mark") for entry in Journal(folder).all()}
    if done.issuperset(marks.values()):
        return send_rest(folder)
    tracker, step = (
        Tracker(folder),
        read_json(path / CONFIG_FILE, Command("export")).get("made_from", {}).get("step", 0),
    )
    if marks["metrics"] not in done:
        names = {
            name: name.replace("/", "_").replace("@", "_at_") for name in flat(results)
        }  # MLflow makes a section of each "/"
        values = {f"{config.split}/{names[name]}": value for name, value in flat(results).items()}
        tracker.metrics(values, step, mark=marks["metrics"])
    for name in (RESULTS, PER_CATEGORY):
        if marks[name] not in done:
            tracker.artifact(
                Path(config.out) / name, f"evaluation-{config.split}", mark=marks[name]
            )
    tracker.close(None)


def subject_of(config: Config, vocabulary: Vocabulary) -> Subject:
    """What `checkpoint` names; the class prior is still to be counted."""
    if config.checkpoint == CLIP:
        return Subject(
            CLIP, vocabulary, config.clip, str(Path(config.text).absolute()), config.clip_scores
        )
    if config.checkpoint == PRIOR:
        return Subject(PRIOR, vocabulary)
    return Subject(str(find_export(config.checkpoint).absolute()), vocabulary)


def count_prior(workers: int, index: ShardIndex, vocabulary: Vocabulary) -> tuple[float, ...]:
    """The class prior [C], counted over the training shards by the workers."""
    shards = index.split("train")
    connect(workers)
    total, progress = (
        np.zeros(len(vocabulary), np.int64),
        Progress("prior", sum(shard.count for shard in shards)),
    )
    for (_, shard, _), counts in run_tasks(
        count_shard, ((index, shard, vocabulary) for shard in shards), workers
    ):
        total += counts
        progress.update(shard.count)
    progress.close()
    return tuple(prior_of(total, sum(shard.count for shard in shards), vocabulary).tolist())


def count_shard(task: tuple[ShardIndex, Shard, Vocabulary]) -> np.ndarray:
    """One task of the class prior: counts [C]."""
    return class_counts(*task)


def pieces_of(
    images: int, folder: Path, subject: Subject, shards: Path, config: Config
) -> list[Piece]:
    """About PIECE_IMAGES images each, but enough pieces for several workers."""
    count = min(images, max(LEAST_PIECES, -(-images // PIECE_IMAGES)))
    return [Piece(number, count, folder, subject, shards, config) for number in range(count)]


def score(
    pieces: list[Piece], images: int, config: Config, protocols: tuple[str, ...], categories: int
) -> tuple:
    """Runs what is missing and merges: (Part, Thresholds | None, counts | None). Raises UserError
    if an image is missing.
    """
    connect(config.workers)
    gpus = min(1.0, ray.cluster_resources().get("GPU", 0) / config.workers)
    missing, progress = [piece for piece in pieces if not piece.done], Progress("score", images)
    progress.skip(sum(load_part(piece.part).images for piece in pieces if piece.done))
    for _, done in run_tasks(
        score_piece,
        missing,
        config.workers,
        gpus,
        name=lambda piece: f"score {piece.number} of {piece.of}",
    ):
        progress.update(done)
    progress.close()
    part = merge([load_part(piece.part) for piece in pieces])
    if part.images != images:
        raise UserError(
            f"{part.images:,} of the {images:,} images of split {config.split} were scored: the"
            f" shards changed meanwhile, run `{Command('evaluate')}` again"
        )
    if "dense" not in protocols:
        return part, None, None
    thresholds = thresholds_of(part, categories)
    shared, at_least = ray.put(thresholds), np.zeros(len(thresholds.score), np.int64)
    together = max(1, COUNT_IMAGES * len(pieces) // max(images, 1))
    groups = [pieces[start : start + together] for start in range(0, len(pieces), together)]
    progress = Progress("dense", len(pieces), "pieces")
    for (_, some), counts in run_tasks(
        count_pieces, ((shared, some) for some in groups), config.workers
    ):
        at_least += counts
        progress.update(len(some))
    progress.close()
    return part, thresholds, at_least


LOADED: list[tuple[Subject, Any]] = []
"""The last scorer of this worker process: Ray gives one process many pieces."""


def scorer_of(subject: Subject, index: ShardIndex) -> Any:
    """The scorer, loaded once in each worker process. Raises UserError if its files were replaced
    since the command started.
    """
    if not LOADED or LOADED[0][0] != subject:
        LOADED[:] = [
            (
                subject,
                load_scorer(subject, torch.device("cuda" if torch.cuda.is_available() else "cpu")),
            )
        ]
        check_identity(subject, index)
    return LOADED[0][1]


def check_identity(subject: Subject, index: ShardIndex) -> None:
    """Raises UserError unless what `subject` names is still what it was when the command
    started.
    """
    if identity(subject, index) != subject.identity:
        LOADED.clear()
        raise UserError(
            f"checkpoint={subject.checkpoint}, or the text features that it is compared with, was"
            " written anew while it was evaluated: run the same command again"
        )


def score_piece(piece: Piece) -> int:
    """Scores one piece and writes its files; returns how many images it has."""
    config, vocabulary, index = piece.config, piece.subject.vocabulary, load_index(piece.shards)
    scorer = scorer_of(piece.subject, index)
    seen = np.arange(len(vocabulary)) < vocabulary.seen_count
    loader = LoaderConfig(scorer.size, workers=config.loader_workers)
    parts, scores = [], []
    for batch in evaluation_batches(
        loader, index, vocabulary, config.split, piece.number, piece.of, config.batch
    ):
        values, isr = scorer.scores(batch.images)
        try:
            parts.append(measure(values, batch.labels.numpy(), seen, tuple(config.topk), isr=isr))
        except UserError as error:
            raise UserError(f"images {batch.ids[0]} … {batch.ids[-1]}: {error}") from error
        scores.append(values)
    if "dense" in config.protocols:
        with whole_file(piece.scores) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(scores))
    part = merge(parts)
    part.save(piece.part)
    return part.images


def count_pieces(task: tuple[Any, list[Piece]]) -> np.ndarray:
    """The second look at some pieces' scores, for the dense protocol: counts [T]. `task` holds a
    reference to the Thresholds.
    """
    reference, pieces = task
    table: Thresholds = ray.get(reference)
    again = "remove its folder and run the same command again"
    return table.count(*(open_npy(piece.scores, again, "f") for piece in pieces))


if __name__ == "__main__":
    from c2srt.cli import main

    sys.exit(main(["evaluate", *sys.argv[1:]]))
