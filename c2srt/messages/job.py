"""`c2srt messages`: relates the scores of a trained model, and writes it again with what it found.

<out>/model/          the export, its scores now logits of related scores (whole or not at all)
<out>/messages.json   what was heard: a category's sources and their weights, by name
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from c2srt.artefact import hash_of_record, is_marked, writing
from c2srt.errors import UserError
from c2srt.export.files import CONFIG_FILE, MODEL_FILE, find_export, is_export, is_only_export
from c2srt.export.read import Exported, load_export
from c2srt.export.write import save_with_messages
from c2srt.files import check_replaceable, hash_of, sha256_of_file, write_json
from c2srt.hints import Command
from c2srt.keys import deciding
from c2srt.loader import LoaderConfig, evaluation_batches
from c2srt.messages.build import messages_of, readable
from c2srt.messages.collect import collect
from c2srt.messages.config import Config
from c2srt.messages.sources import neighbours_of_unseen, sources_of_seen
from c2srt.progress import Progress
from c2srt.relations.table import PROVENANCE as GRAPH_RECORD
from c2srt.shards import ShardIndex, load_index
from c2srt.vocabulary import check_same_vocabulary, load_vocabulary

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
    key = key_of(config, source, index)
    if source.resolve() == (out / MODEL).resolve():
        raise UserError(
            f"out={config.out} is where the checkpoint itself lies: choose another folder"
        )
    made = out / MODEL / CONFIG_FILE
    if is_export(out / MODEL) and is_marked(made, key, MADE_BY, "made_from", "messages"):
        log.info(f"{out / MODEL} is up to date")
        return
    check_replaceable(out / MODEL, is_only_export)
    exported = load_export(source)
    check_same_vocabulary(vocabulary, exported.vocabulary.hash, source, Command("train"))
    check_same_vocabulary(
        vocabulary, index.vocabulary, index.folder / "index.json", Command("shard")
    )
    if exported.messages is not None:
        raise UserError(
            f"checkpoint={config.checkpoint} has messages already: give the one that it was made of"
        )
    with writing(out):
        sources = sources_of_seen(config, vocabulary)
        neighbours = neighbours_of_unseen(config, vocabulary)
        collected = collect(scored(config, exported, index), sources)
        messages = messages_of(collected, sources, neighbours, config)
        if key_of(config, source, index) != key:
            raise UserError(f"{source} or what it is fitted on was written anew: run it again")
        made_from = exported.made_from | {"messages": {"key": key}}
        save_with_messages(out / MODEL, source, exported.clip.tokenizer, messages, made_from)
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


def scored(
    config: Config, exported: Exported, index: ShardIndex
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(scores [b, C], labels [b, C]) of the training images: a contiguous part of the split, which
    is as good as any, since shards hold images in the order of their ids.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    exported.to(device)
    images = sum(shard.count for shard in index.split(SPLIT))
    parts = -(-images // config.images)
    loader = LoaderConfig(
        exported.clip.image_size,
        config.batch,
        config.batch,
        split=SPLIT,
        workers=config.loader_workers,
    )
    batches = evaluation_batches(loader, index, exported.vocabulary, SPLIT, 0, parts, config.batch)
    progress = Progress("messages", -(-images // parts))
    for batch in batches:
        with torch.no_grad():
            scores, _ = exported.scores(batch.images.to(device))
        yield scores.float().cpu().numpy(), batch.labels.numpy()
        progress.update(len(batch.images))
    progress.close()
