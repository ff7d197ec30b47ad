"""`c2srt calibrate`: what a trained model's scores mean, and the model again with it.

<out>/model/             the export with its calibration (whole or not at all)
<out>/calibration.json   slope, threshold, and what they are worth on another split
<out>/per_category.csv   the same of each category: threshold, precision, recall and F1
<out>/confusions.csv     which category was named where another was (per_category.py)
"""

import logging
from functools import partial
from pathlib import Path

import polars as pl

from c2srt.artefact import writing
from c2srt.calibration.config import ABSENT, Config
from c2srt.calibration.counts import count
from c2srt.calibration.fit import calibrate
from c2srt.calibration.measured import measure
from c2srt.calibration.per_category import Tally, category_table, confusion_table
from c2srt.errors import UserError
from c2srt.evaluation.results import PER_CATEGORY, write_table
from c2srt.export.again import is_made, load_for
from c2srt.export.files import find_export, identity
from c2srt.export.write import save_fitted
from c2srt.files import hash_of, write_json
from c2srt.hints import Command
from c2srt.keys import deciding
from c2srt.model.calibration import Calibration
from c2srt.shards import ShardIndex, load_index
from c2srt.shown import shown
from c2srt.split_scores import split_scores
from c2srt.vocabulary import load_vocabulary

log = logging.getLogger(__name__)

MODEL, READABLE = "model", "calibration.json"
TABLES = PER_CATEGORY, "confusions.csv"
FORM = 3
"""Of what is fitted and written."""
EXAMPLES = 3
MADE_BY = Command("calibrate")


def run(config: Config) -> None:
    """Writes the export with its calibration, or says that it is up to date. Raises UserError on
    bad input.
    """
    source, out = find_export(config.checkpoint), Path(config.out)
    index, vocabulary = load_index(Path(config.shards)), load_vocabulary(Path(config.shards))
    key, seen = key_of(config, source, index), vocabulary.seen_count
    if is_made(source, out / MODEL, key, MADE_BY, "calibration"):
        return
    exported, absent = load_for(source, index, vocabulary), config.unverified == ABSENT
    scored = partial(
        split_scores,
        exported,
        index,
        images=config.images,
        batch=config.batch,
        loader_workers=config.loader_workers,
    )
    with writing(out):
        calibration = calibrate(count(scored(split=config.split, title="calibrate"), absent), seen)
        found, tally = {}, Tally(len(vocabulary))
        if config.measured is not None:
            batches = scored(split=config.measured, title="measure")
            found = measure(batches, calibration, seen, absent, config.seed, tally)
        if key_of(config, source, index) != key:
            raise UserError(f"{source} or what it is fitted on was written anew: run it again")
        made_from = exported.made_from | {"calibration": {"key": key}}
        save_fitted(out / MODEL, source, exported.clip.tokenizer, calibration, made_from)
        pairs = confusion_table(tally, vocabulary)
        write_tables(out, category_table(tally, calibration, vocabulary), pairs)
        write_json(
            out / READABLE, readable(calibration) | {"measured": found, "data": index.version}
        )
    log.info(
        f"{out / MODEL}: named from a probability of {calibration.threshold[0]:.3f}, unseen ones"
        f" and new words from {calibration.new[2]:.3f}{said(config, found)}{confused(pairs)}"
    )


def write_tables(out: Path, categories: pl.DataFrame, pairs: pl.DataFrame) -> None:
    """Where no split was measured all counts are 0."""
    for name, table in zip(TABLES, (categories, pairs), strict=True):
        write_table(out / name, table)


def key_of(config: Config, source: Path, index: ShardIndex) -> str:
    """Two runs with equal keys give equal exports."""
    splits = [split for split in (config.split, config.measured) if split is not None]
    return hash_of(
        [
            identity(source),
            [[(shard.name, shard.sha256) for shard in index.split(split)] for split in splits],
            deciding(config),
            FORM,
        ]
    )


def readable(calibration: Calibration) -> dict:
    slope, offset, threshold = calibration.new.tolist()
    seen = {"slope": float(calibration.slope[0]), "threshold": float(calibration.threshold[0])}
    others = {"slope": slope, "offset": offset, "threshold": threshold}
    return {"seen": seen, "unseen and new words": others}


def said(config: Config, found: dict[str, dict]) -> str:
    """What was measured, a line a group of categories."""
    return "".join(
        f"\n{config.measured}, {name} categories: expected calibration error"
        f" {100 * group['ECE']['before']:.1f} % before, {100 * group['ECE']['after']:.1f} % now;"
        f" micro-F1 {100 * group['F1']['threshold']:.1f} by the threshold,"
        f" {100 * group['F1']['best K']:.1f} by the best {group['F1']['K']}"
        for name, group in found.items()
    )


def confused(pairs: pl.DataFrame) -> str:
    """A line with the pairs furthest above what is expected; "" if none is above it."""
    telling = pairs.filter(pl.col("images") > pl.col("expected")).head(EXAMPLES).to_dicts()
    found = [
        f"{shown(row['said'])} where it was {shown(row['was'])} in {row['images']:,} images"
        f" ({row['expected']:.1f} expected)"
        for row in telling
    ]
    return f"\nsaid {', '.join(found)}" if found else ""
