"""The job of `c2srt evaluate`: scores the test shards in pieces (pieces.py), merges what they leave
behind, writes results.json.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from c2srt.artefact import is_current, remove_unfinished, tidy, unfinished, writing
from c2srt.errors import UserError
from c2srt.evaluation.arrays import counted, evaluate_arrays, state_of
from c2srt.evaluation.config import (
    CLIP,
    COSINE,
    PRIOR,
    PROTOCOLS,
    SPARC,
    UNTRAINED,
    Config,
    versions_of,
)
from c2srt.evaluation.known import twins_heard
from c2srt.evaluation.metric_state import check_topk
from c2srt.evaluation.pieces import check_identity, pieces_of, score
from c2srt.evaluation.results import (
    RESULTS,
    Task,
    about,
    evaluate_state,
    read_results,
    write_results,
)
from c2srt.evaluation.score_sparc import score_sparc
from c2srt.evaluation.score_table import read_scores
from c2srt.evaluation.scorers import Subject, class_counts, heard_by_unseen, identity, prior_of
from c2srt.evaluation.split_labels import read_labels
from c2srt.executor import Opens
from c2srt.export.files import find_export
from c2srt.export.read import heard_neighbours
from c2srt.files import hash_of, sha256_of_file
from c2srt.hints import Command
from c2srt.opened import check_regular
from c2srt.processes import kept
from c2srt.progress import Progress
from c2srt.relations.untold import untold
from c2srt.scratch import named
from c2srt.shards import Shard, ShardIndex, load_index
from c2srt.vocabulary import Vocabulary, check_same_vocabulary, load_vocabulary

log = logging.getLogger(__name__)

PIECES = "pieces"


def evaluate(config: Config, opens: Opens) -> tuple[dict, bool]:
    """Writes results.json and per_category.csv; returns the results, and whether they are new.
    Raises UserError on bad input.
    """
    protocols = tuple(name for name in PROTOCOLS if name in config.protocols)
    if config.scores is None and config.checkpoint == SPARC:
        return evaluate_sparc(config, protocols, opens)
    if config.scores is None:
        return evaluate_shards(config, protocols, opens)
    if config.is_table:
        return evaluate_table(config, protocols)
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
    made_from |= mended(protocols)
    results = {"checkpoint": None, "vocabulary": None, **results, "made_from": made_from}
    with writing(Path(config.out)):
        write_results(Path(config.out), results, table.with_row_index("column"))
    return results, True


@kept()
def evaluate_shards(config: Config, protocols: tuple[str, ...], opens: Opens) -> tuple[dict, bool]:
    """Scores the split with a checkpoint, or reads the results if they are up to date."""
    out = Path(config.out).absolute()
    index, vocabulary = inputs_of(config)
    subject = subject_of(config, vocabulary)
    made_from = {
        "subject": identity(subject, index),
        **measured_by(config, protocols, index, vocabulary),
        "batch": config.batch,
    }
    key = hash_of(made_from)
    if (found := current(out, key)) is not None:
        log.info(f"{out / RESULTS} is up to date")
        tidy(out, PIECES)
        return found, False
    with writing(out):
        results, table = measured(
            config, index, vocabulary, subject, made_from | {"key": key}, opens
        )
        write_results(out, results, table)
        remove_unfinished(out, PIECES)
    return results, True


def evaluate_table(config: Config, protocols: tuple[str, ...]) -> tuple[dict, bool]:
    """Measures a table of scores with the labels of the split, or reads the results if they are up
    to date.
    """
    path = Path(str(config.scores))
    index, vocabulary = inputs_of(config)

    def scores_of(ids: list[str], folder: Path) -> np.ndarray:
        return read_scores(path, ids, vocabulary, folder / "scores.npy")

    origin = {"scores": scores_hash(path)}
    return evaluate_whole(config, protocols, index, vocabulary, origin, scores_of)


@kept()
def evaluate_sparc(config: Config, protocols: tuple[str, ...], opens: Opens) -> tuple[dict, bool]:
    """Measures SPARC's scores of the split, or reads the results if they are up to date."""
    index, vocabulary = inputs_of(config)
    subject = subject_of(config, vocabulary)
    subject = replace(subject, identity=identity(subject, index))

    def scores_of(ids: list[str], folder: Path) -> np.ndarray:
        images = sum(shard.count for shard in index.split(config.split))
        pieces = pieces_of(images, folder, subject, index.folder, config)
        scores = score_sparc(pieces, images, subject, folder / "scores.npy", opens)
        check_identity(subject, index)
        return scores

    origin = {"subject": subject.identity, "batch": config.batch}
    heard = heard_by(subject)
    return evaluate_whole(config, protocols, index, vocabulary, origin, scores_of, heard)


def evaluate_whole(
    config: Config,
    protocols: tuple[str, ...],
    index: ShardIndex,
    vocabulary: Vocabulary,
    origin: dict,
    scores_of: Callable[[list[str], Path], np.ndarray],
    heard: int | None = None,
) -> tuple[dict, bool]:
    """Measures scores [N, C] that are there as a whole: `scores_of` images of these ids [N], with a
    folder for its files. `origin` is what they are made from, `heard` as `heard_by`.
    """
    out = Path(config.out).absolute()
    made_from = {**origin, **measured_by(config, protocols, index, vocabulary)}
    key = hash_of(made_from)
    if (finished := current(out, key)) is not None:
        log.info(f"{out / RESULTS} is up to date")
        tidy(out, PIECES)
        return finished, False
    with writing(out):
        folder = unfinished(out, PIECES, key)
        folder.mkdir(parents=True, exist_ok=True)
        ids, labels = read_labels(index, vocabulary, config.split, folder / "labels.npy")
        scores, task = scores_of(ids, folder), task_of(config, protocols, vocabulary)
        state = state_of(scores, labels, task, config.workers)
        found = evaluate_state(state, task, *counted(scores, state, task, config.workers))
        check_still(index)
        name = None if config.scores else config.checkpoint
        results, table = named_results(found, name, vocabulary, config, made_from | {"key": key})
        results |= {"twins_heard": heard, "data": index.version}
        write_results(out, results, table)
        remove_unfinished(out, PIECES)
    return results, True


def scores_hash(path: Path) -> str:
    """Raises UserError if there is no such file."""
    check_regular(path, "name a .parquet or .csv file as scores=…")
    return sha256_of_file(path)


def inputs_of(config: Config) -> tuple[ShardIndex, Vocabulary]:
    """The shards and their vocabulary. Raises UserError if they are absent or damaged, or lack the
    split, or a K does not fit.
    """
    shards = Path(config.shards).absolute()
    index, vocabulary = load_index(shards), load_vocabulary(shards)
    check_same_vocabulary(vocabulary, index.vocabulary, shards / "index.json", Command("shard"))
    check_topk(task_of(config, (), vocabulary).seen, tuple(config.topk))
    index.split(config.split)
    return index, vocabulary


def task_of(config: Config, protocols: tuple[str, ...], vocabulary: Vocabulary) -> Task:
    seen = np.arange(len(vocabulary)) < vocabulary.seen_count
    return Task(seen, tuple(config.topk), protocols, config.bootstrap, config.seed)


def measured_by(
    config: Config, protocols: tuple[str, ...], index: ShardIndex, vocabulary: Vocabulary
) -> dict:
    """What results over shards are made from besides the scores."""
    return {
        "shards": index.source,
        "split": config.split,
        "vocabulary": vocabulary.hash,
        "topk": config.topk,
        "protocols": protocols,
        "bootstrap": [config.bootstrap, config.seed],
        **mended(protocols),
    }


def check_still(index: ShardIndex) -> None:
    """Raises UserError if the shards were written anew since they were looked at."""
    if load_index(index.folder) != index:
        raise UserError(
            f"{index.folder} was written anew while it was evaluated: run the same command again"
        )


def named_results(
    found: tuple[dict, pl.DataFrame],
    checkpoint: str | None,
    vocabulary: Vocabulary,
    config: Config,
    made_from: dict,
) -> tuple[dict, pl.DataFrame]:
    """What `evaluate_state` found, with what the vocabulary tells: results.json's content and the
    per-category table.
    """
    results = {
        "checkpoint": checkpoint,
        "vocabulary": vocabulary.hash,
        **found[0],
        **about(vocabulary, config.split),
        "made_from": made_from,
    }
    names = [pl.Series("mid", vocabulary.mids), pl.Series("name", vocabulary.titles)]
    return results, pl.DataFrame([*names, *found[1]])


def mended(protocols: tuple[str, ...]) -> dict:
    """The "versions" of made_from; nothing where no protocol has one, so that older results stay up
    to date.
    """
    found = versions_of(protocols)
    return {"versions": found} if found else {}


def current(out: Path, key: str) -> dict | None:
    """The results in `out` if they are whole and have this key."""
    with suppress(UserError):  # what cannot be read is written anew
        if is_current(out / RESULTS, {"key": key}, ()):
            return read_results(out)
    return None


def measured(
    config: Config,
    index: ShardIndex,
    vocabulary: Vocabulary,
    subject: Subject,
    made_from: dict,
    opens: Opens,
) -> tuple[dict, pl.DataFrame]:
    """Scores what is missing and measures all of it: results.json's content and the per-category
    table. `made_from` holds the subject's identity: what the workers load must have it, at the end
    too. Raises UserError where it has changed.
    """
    if subject.checkpoint == PRIOR:
        subject = replace(subject, prior=count_prior(config.workers, index, vocabulary, opens))
    subject = replace(subject, identity=made_from["subject"])
    folder = unfinished(Path(config.out).absolute(), PIECES, made_from["key"])
    images = sum(shard.count for shard in index.split(config.split))
    pieces = pieces_of(images, folder, subject, index.folder, config)
    state, thresholds, at_least = score(pieces, images, config, len(vocabulary), opens)
    check_identity(subject, index)
    check_still(index)
    task = task_of(config, made_from["protocols"], vocabulary)
    found = evaluate_state(state, task, thresholds, at_least)
    results, table = named_results(found, named(config.checkpoint), vocabulary, config, made_from)
    return results | {"twins_heard": heard_by(subject), "data": index.version}, table


def heard_by(subject: Subject) -> int | None:
    """How many unseen categories hear the seen one of their own name; None without a graph."""
    table = heard_by_unseen(subject)
    if subject.checkpoint == SPARC:
        table = untold(Path(subject.relations), subject.vocabulary, subject.neighbours)
    if table is None and subject.checkpoint not in UNTRAINED:
        heard = heard_neighbours(Path(subject.checkpoint))
        table = None if heard is None else heard.numpy()
    return None if table is None else twins_heard(subject.vocabulary, table)


def subject_of(config: Config, vocabulary: Vocabulary) -> Subject:
    """What `checkpoint` names; the class prior is still to be counted."""
    heard = config.neighbours, str(Path(config.relations).absolute()) if config.neighbours else ""
    if config.checkpoint in (CLIP, SPARC):
        text = str(Path(config.text).absolute())
        form = COSINE if config.checkpoint == SPARC else config.clip_scores
        return Subject(
            config.checkpoint, vocabulary, config.clip.absolute(), text, form, (), *heard
        )
    own = config.checkpoint == PRIOR
    checkpoint = PRIOR if own else str(find_export(config.checkpoint).absolute())
    return Subject(checkpoint, vocabulary, neighbours=heard[0], relations=heard[1])


def count_prior(
    workers: int, index: ShardIndex, vocabulary: Vocabulary, opens: Opens
) -> tuple[float, ...]:
    """The class prior [C], counted over the training shards by the workers."""
    shards = index.split("train")
    images = sum(shard.count for shard in shards)
    total = np.zeros(len(vocabulary), np.int64)
    with opens(workers, len(shards), images) as executor:
        progress = Progress("prior", images)
        for shard, counts in executor.map(partial(count_shard, index, vocabulary), shards):
            total += counts
            progress.update(shard.count)
        progress.close()
    return tuple(prior_of(total, images, vocabulary).tolist())


def count_shard(index: ShardIndex, vocabulary: Vocabulary, shard: Shard) -> np.ndarray:
    """One task of the class prior: counts [C]."""
    return class_counts(index, shard, vocabulary)
