"""`c2srt messages`: relates the scores of a trained model, and writes it again with what it found.

<out>/model/          the export, its scores now logits of related scores (whole or not at all)
<out>/messages.json   what was heard: a category's sources and their weights, by name
"""

import logging
from pathlib import Path

from c2srt.artefact import hash_of_record, writing
from c2srt.errors import UserError
from c2srt.export.again import is_made, load_for
from c2srt.export.files import CONFIG_FILE, MODEL_FILE, find_export
from c2srt.export.write import save_fitted
from c2srt.files import hash_of, sha256_of_file, write_json
from c2srt.hints import Command
from c2srt.keys import deciding
from c2srt.messages.build import messages_of, readable
from c2srt.messages.collect import collect
from c2srt.messages.config import Config
from c2srt.messages.sources import neighbours_of_unseen, sources_of_seen
from c2srt.relations.table import PROVENANCE as GRAPH_RECORD, load_relations
from c2srt.shards import ShardIndex, load_index
from c2srt.split_scores import split_scores
from c2srt.vocabulary import load_vocabulary

log = logging.getLogger(__name__)

MODEL, READABLE, SPLIT = "model", "messages.json", "train"
FORM = 2
"""Of the numbers that are fitted; 1 had unseen categories hear scores, not logits."""
MADE_BY = Command("messages")


def run(config: Config) -> None:
    """Writes the export with messages, or says that it is up to date. Raises UserError on bad
    input.
    """
    source, out = find_export(config.checkpoint), Path(config.out)
    index, vocabulary = load_index(Path(config.shards)), load_vocabulary(Path(config.shards))
    load_relations(Path(config.relations), vocabulary, config.neighbours)  # are there, and fit
    key = key_of(config, source, index)
    if is_made(source, out / MODEL, key, MADE_BY, "messages"):
        return
    exported = load_for(source, index, vocabulary)
    exported.refuse_calibrated(config.checkpoint)
    if exported.messages is not None:
        raise UserError(
            f"checkpoint={config.checkpoint} has messages already: give the one that it was made of"
        )
    with writing(out):
        sources = sources_of_seen(config, vocabulary)
        neighbours = neighbours_of_unseen(config, vocabulary)
        scored = split_scores(
            exported,
            index,
            SPLIT,
            config.images,
            config.batch,
            config.loader_workers,
            "messages",
        )
        collected = collect(scored, sources)
        messages = messages_of(collected, sources, neighbours, config)
        if key_of(config, source, index) != key:
            raise UserError(f"{source} or what it is fitted on was written anew: run it again")
        made_from = exported.made_from | {"messages": {"key": key}}
        save_fitted(out / MODEL, source, exported.clip.tokenizer, messages, made_from)
        write_json(out / READABLE, readable(messages, vocabulary))
    kept = (messages.weights != 0).sum(1).double().mean().item()
    log.info(
        f"{out / MODEL}: {len(collected.category):,} labels of {vocabulary.seen_count:,} seen"
        f" categories, {kept:.1f} sources kept a category; {out / READABLE} names them"
    )


def key_of(config: Config, source: Path, index: ShardIndex) -> str:
    """Two runs with equal keys give equal exports."""
    return hash_of(
        [
            hash_of_record(source / CONFIG_FILE),
            sha256_of_file(source / MODEL_FILE),
            hash_of_record(Path(config.relations) / GRAPH_RECORD),
            [(shard.name, shard.sha256) for shard in index.split(SPLIT)],
            deciding(config),
            FORM,
        ]
    )
