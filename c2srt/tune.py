"""`c2srt tune`: prompt tuning, the second stage of MKT (He et al. 2023), for a trained C²SRT (the
row "prompt tuning" of table 5) or MKT.

Student and head are frozen, and so is the text tower; what learns is one embedding for each token
of one template (c2srt/model/ context.py), from the same ranking loss over the seen categories that
the checkpoint was trained with. The result is an export like any other: its text features, of seen
and unseen categories alike, come from the tuned template, and new words are embedded with it too.
`evaluate` and `predict` take it as it is.

A step: text features of all S categories, in chunks; the loss and its gradient for them,
micro-batch by micro-batch in the head's tiles (c2srt/model/text_gradient.py); that gradient through
the text tower, in chunks again. Memory grows with S by a few rows [S, D] only.

    <out>/model/    the tuned export (whole or not at all)
    <out>/run.json, <out>/tracking.jsonl  the MLflow run, and the record on its way there
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from c2srt.artefact import hash_of_record, tidy, writing
from c2srt.errors import UserError
from c2srt.export.again import is_made, load_for
from c2srt.export.files import CONFIG_FILE, MODEL_FILE, find_export
from c2srt.export.read import Exported
from c2srt.export.write import save_with_context
from c2srt.files import hash_of, sha256_of_file
from c2srt.hints import Command
from c2srt.interrupts import patiently
from c2srt.keys import deciding
from c2srt.loader import Batch, LoaderConfig, train_batches, training_order
from c2srt.model.config import LossConfig
from c2srt.model.context import Context, Prompts
from c2srt.order import BatchPartition
from c2srt.progress import Progress
from c2srt.shards import ShardIndex, load_index
from c2srt.tracking import Journal, Run, Tracker, job_tags, send_rest
from c2srt.train.schedule import learning_rate_factor
from c2srt.tune_config import Config
from c2srt.vocabulary import load_vocabulary

log = logging.getLogger(__name__)

MODEL = "model"
LENGTH = ("epochs", "steps")
"""Keys that the number of updates follows from, which stands in the key of a tuning itself."""


def run(config: Config) -> None:
    """Writes the tuned export, or says that it is up to date. Raises UserError on bad input, or a
    loss that is not finite.
    """
    source, out = find_export(config.checkpoint), Path(config.out)
    index, vocabulary = load_index(Path(config.shards)), load_vocabulary(Path(config.shards))
    steps = (
        config.steps
        or config.epochs * training_order(loader_config(config, 1), index).steps_per_epoch
    )
    key = key_of(config, source, index, steps)
    if is_made(source, out / MODEL, key, Command("tune"), "tuned"):
        tidy(out)
        finish_record(config, key, steps)
        return
    exported = load_for(source, index, vocabulary)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    exported.model.to(device), exported.clip.to(device)
    context = Context.of(exported.clip, template_of(config, exported))
    with writing(out):
        losses = tune_and_save(config, exported, context, index, steps, key)
    log.info(
        f"{out / MODEL}: {context.template!r} tuned for {steps:,} steps, loss {losses[0][1]:.4f} →"
        f" {losses[-1][1]:.4f}"
    )


def loader_config(config: Config, size: int) -> LoaderConfig:
    """Batches of the training split, of images of `size` pixels."""
    return LoaderConfig(
        size,
        config.batch,
        config.micro_batch,
        config.seed,
        "train",
        config.views,
        workers=config.loader_workers,
    )


def key_of(config: Config, source: Path, index: ShardIndex, steps: int) -> str:
    """Two tunings with equal keys give equal exports."""
    return hash_of(
        [
            hash_of_record(source / CONFIG_FILE),
            sha256_of_file(source / MODEL_FILE),
            steps,
            [(shard.name, shard.sha256) for shard in index.split("train")],
            {name: value for name, value in deciding(config).items() if name not in LENGTH},
        ]
    )


def tune_and_save(
    config: Config, exported: Exported, context: Context, index: ShardIndex, steps: int, key: str
) -> list[list[float]]:
    """Tunes, writes the export, records both; returns the losses. Raises UserError if the
    checkpoint was replaced meanwhile.
    """
    out, source, tracker = (
        Path(config.out),
        find_export(config.checkpoint),
        open_tracker(config, key),
    )
    try:
        losses = tune(config, exported, context, index, steps, tracker)
        text = context.features(
            exported.clip,
            context.prompts(exported.clip, list(exported.vocabulary.names)),
            config.chunk,
        )
        tuned = {"key": key, "template": context.template, "steps": steps, "loss": losses}
        save_with_context(
            out / MODEL,
            source,
            exported.clip.tokenizer,
            text,
            context,
            exported.made_from | {"tuned": tuned},
            lambda: check_unchanged(config, source, index, steps, key),
        )
    except KeyboardInterrupt:
        with patiently():
            tracker.close("KILLED")
        raise
    except BaseException:
        tracker.close("FAILED")
        raise
    close(config, tracker, steps)
    return losses


def check_unchanged(config: Config, source: Path, index: ShardIndex, steps: int, key: str) -> None:
    if key_of(config, source, index, steps) != key:
        raise UserError(f"{source} was written anew while it was tuned: run the same command again")


def close(config: Config, tracker: Tracker, steps: int) -> None:
    """The end of the record."""
    if config.tracking.model:
        tracker.model(Path(config.out) / MODEL, steps, config.tracking.register)
    tracker.close("FINISHED")


def finish_record(config: Config, key: str, steps: int) -> None:
    """What a run that was killed after its export was whole, or could not reach the store, has not
    recorded.
    """
    seen = Journal(Path(config.out)).seen()
    logged = not config.tracking.model or config.tracking.register in seen.registered
    if seen.status == "FINISHED" and logged:
        return send_rest(Path(config.out))
    close(config, open_tracker(config, key), steps)


def template_of(config: Config, exported: Exported) -> str:
    """The template to start from. Raises UserError where that is not clear, or the model has no
    prompt tuning.
    """
    if not exported.model.tunes_prompts:
        raise UserError(
            f"checkpoint={config.checkpoint} is a model of kind {exported.model.config.kind}, which"
            " has no prompt tuning: give a C²SRT or an MKT"
        )
    exported.refuse_calibrated(config.checkpoint)
    if exported.messages is not None:
        raise UserError(
            f"checkpoint={config.checkpoint} has messages, which were fitted on its scores: tune"
            " the model that it was made of, then fit them"
        )
    if exported.context is not None:
        raise UserError(
            f"checkpoint={config.checkpoint} has a tuned template already: give the one that it was"
            " tuned from"
        )
    if config.template is not None:
        return config.template
    if len(exported.templates) > 1:
        raise UserError(
            f"checkpoint={config.checkpoint} was trained with {len(exported.templates)} templates"
            " and one is tuned: say which, as in"
            f" `{Command('tune', template=exported.templates[0])}`"
        )
    return exported.templates[0]


def tune(
    config: Config,
    exported: Exported,
    context: Context,
    index: ShardIndex,
    steps: int,
    tracker: Tracker,
) -> list[list[float]]:
    """Learns `context.values` in place; returns [step, mean loss since the last one] every
    `log_every` steps.

    The loss of a step is that of the context before it. Raises UserError when it is not finite.
    """
    clip, seen = exported.clip, exported.vocabulary.seen_count
    prompts = context.prompts(clip, list(exported.vocabulary.names[:seen]))
    optimizer = torch.optim.Adam([context.values], config.lr)
    batches = train_batches(
        loader_config(config, clip.image_size), index, exported.vocabulary, stop_step=steps
    )
    progress, recent, losses = Progress("tune", steps, "steps"), [], []
    for step in range(1, steps + 1):
        recent.append(
            take_step(
                config,
                exported,
                context,
                prompts,
                optimizer,
                batches,
                learning_rate_factor(step - 1, steps, 0),
            )
        )
        progress.update(1, f"loss {recent[-1]:.4f}")
        if step % config.log_every == 0 or step == steps:
            losses.append([step, sum(recent) / len(recent)])
            if new := tracker.new({"loss": losses[-1][1]}, step):
                tracker.metrics(new, step)
            recent = []
    progress.close()
    return losses


def take_step(
    config: Config,
    exported: Exported,
    context: Context,
    prompts: Prompts,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    factor: float,
) -> float:
    """One update of the context from `batch` images; returns the loss before it."""
    features = context.features(exported.clip, prompts, config.chunk)
    total, gradient, count = (
        0.0,
        torch.zeros_like(features),
        BatchPartition(config.batch, config.micro_batch).accumulation,
    )
    for batch in islice(batches, count):
        loss, found = loss_and_gradient(
            exported, features, batch.to(features.device), ranking_of(exported)
        )
        total += loss / count
        gradient += found / count
    if not torch.isfinite(gradient).all():
        look = Command("evaluate", checkpoint=config.checkpoint, out=Path(config.out) / "before")
        raise UserError(
            f"the loss or its gradient is not finite at lr={config.lr}: lower it, or check the"
            f" checkpoint with `{look}`"
        )
    context.values.grad = context.gradient(exported.clip, prompts, gradient, config.chunk)
    optimizer.param_groups[0]["lr"] = config.lr * factor
    optimizer.step()
    return total


@torch.no_grad()
def loss_and_gradient(
    exported: Exported, text: Tensor, batch: Batch, loss: LossConfig
) -> tuple[float, Tensor]:
    """The ranking loss of a micro-batch with text features [S, D], and its gradient for them."""
    value, gradient = exported.model.text_gradient(
        batch.images, batch.labels, batch.weights, text, loss
    )
    return value.item(), gradient


def ranking_of(exported: Exported) -> LossConfig:
    """The ranking loss that the checkpoint was trained with (the defaults where it does not
    say).
    """
    return LossConfig(**exported.made_from.get("config", {}).get("loss", {}))


def open_tracker(config: Config, key: str) -> Tracker:
    """A new MLflow run, named in <out>/run.json: `evaluate` adds its results to it."""
    uri = config.tracking.store(config.work, os.environ)
    parameters = {name: value for name, value in asdict(config).items() if name != "tracking"}
    tags = job_tags() | {"config_hash": key}
    return Tracker(
        Path(config.out),
        uri,
        Run(
            config.tracking.experiment,
            config.tracking.named(Path(config.out), Path(config.work)),
            parameters,
            tags,
            key,
            config.tracking.parent,
        ),
    )
