"""The training loop, for one rank. Everything that a step depends on is a pure function of (config,
inputs, step).
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import torch

from c2srt.errors import UserError
from c2srt.storage import mirror
from c2srt.train import checkpoints
from c2srt.train.checkpoints import OPTIMIZER, WEIGHTS, Record
from c2srt.train.config import FINISHED, STOPPED, Config
from c2srt.train.engine import Engine, Update
from c2srt.train.groups import parameter_groups
from c2srt.train.inputs import build_model, export_weights, load_inputs, load_trained
from c2srt.train.pace import Pace
from c2srt.train.recorder import Recorder
from c2srt.train.report import announce, close_tracker, open_tracker
from c2srt.train.resume import Tensors, resume
from c2srt.train.saving import Saver, saving, send_lines
from c2srt.train.schedule import learning_rate_factor
from c2srt.train.sources import steps_per_epoch, training_batches
from c2srt.train.standing import at, read_by
from c2srt.train.validation import Validator
from c2srt.train.world import World

log = logging.getLogger(__name__)


def train(config: Config, world: World) -> str:
    """Trains to the end, or to a step's end soon after `<out>/stop` exists; returns FINISHED or
    STOPPED.

    Resumes from the newest whole checkpoint of the same run, whatever its number of workers. Raises
    UserError on bad input, a checkpoint of another run, or too many non-finite updates in a row.
    """
    config = replace(config, workers=world.size)
    set_up(config, world)
    at("loading the inputs")
    inputs = load_inputs(config)
    model = build_model(config, inputs)
    validator = Validator(config, inputs, model, world) if config.validation.every else None
    inputs.clip = None  # the model has its own image tower, and the text tower is not needed
    record, found = resume(config, world, inputs, model)
    # before the engine is made: its low-precision copies are then the rounded weights, as they were
    if found:
        load_trained(model, Tensors(found / WEIGHTS, world).all(), found)
    groups = parameter_groups(model, model.parameter_depth, config.optimizer)
    engine = Engine(model, groups, config.engine, config.partition, config.optimizer.clip_grad_norm)
    if found:
        engine.restore(Tensors(found / OPTIMIZER, world), record.optimizer)
    steps = config.schedule.total_steps(steps_per_epoch(config, inputs))
    tracker = open_tracker(config, world, record, inputs.index)
    announce(config, world, model, steps, record.step, tracker)
    recorder = Recorder(
        config.folder,
        world,
        tracker,
        record.step,
        steps,
        config.schedule.batch,
        config.tracking.node_seconds,
    )
    batches = training_batches(config, inputs, world, record.step, steps, engine.device)
    try:
        with saving(config, world, engine) as saver:
            record = run_steps(
                config, world, engine, batches, record, steps, recorder, validator, saver
            )
        state = FINISHED if record.step >= steps else STOPPED
        finish(config, world, recorder, record, steps, state, inputs.index.version)
    except BaseException:
        if tracker:
            tracker.close("FAILED")
        raise
    return state


def run_steps(
    config: Config,
    world: World,
    engine: Engine,
    batches: Iterator[tuple],
    record: Record,
    steps: int,
    recorder: Recorder,
    validator: Validator | None,
    saver: Saver,
) -> Record:
    """Takes steps until the last one or a wish to stop; returns the record of the last
    checkpoint.
    """
    warmup, nonfinite, best = config.schedule.warmup_steps(steps), record.nonfinite, record.best
    first, pace = record.step + 1, Pace(config, world, steps)
    for step in range(first, steps + 1):  # finished updates once this one is done
        pace.begin()
        factor = learning_rate_factor(step - 1, steps, warmup)
        update = engine.train_step(
            recorder.timed(read_by(islice(batches, config.partition.accumulation), step)), factor
        )
        recorder.add(update, config.optimizer.lr * factor)
        if step == first and world.first:
            log.info(f"{time.strftime('%H:%M:%S')} step {step:,} is done, the first of this start")
        nonfinite = count_nonfinite(config, update, nonfinite, step)
        saver.check()
        due = pace.end(step)
        if due.record:
            at("recording")
            recorder.flush(step)
        if validator and (step % config.validation.every == 0 or step == steps):
            best = validate(config, world, engine, validator, recorder, step, best)
        if due.checkpoint:
            record = replace(
                record,
                step=step,
                run_id=recorder.run_id,
                metrics=recorder.last,
                best=best,
                nonfinite=nonfinite,
            )
            saver.save(record)
        if due.last:
            break
    return record


def set_up(config: Config, world: World) -> None:
    """Threads, seeds, determinism and products of this process; removes what killed runs left."""
    world.set_threads(config.loader.workers)
    torch.manual_seed(config.seed)
    deterministic = config.engine.deterministic
    if deterministic != torch.are_deterministic_algorithms_enabled():  # loads the compiler
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # the newer `fp32_precision` would break torch's older getter, which tasks of one process use
    torch.set_float32_matmul_precision(
        "high" if config.engine.tf32 and world.device.type == "cuda" else "highest"
    )
    if world.first:
        mirror.pull(config.folder)
        (config.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        checkpoints.clean(config.folder / "checkpoints")
    world.barrier()


def count_nonfinite(config: Config, update: Update, before: int, step: int) -> int:
    """Left-out updates in a row. Raises UserError at `faults.max_nonfinite`."""
    count = 0 if update.applied else before + 1
    if count >= config.faults.max_nonfinite:
        raise UserError(
            f"{count} updates in a row, up to step {step}, met a non-finite loss or gradient;"
            " weights are as before them: lower optimizer.lr, set optimizer.clip_grad_norm, or take"
            " engine.precision=bf16 or fp32"
        )
    return count


def validate(
    config: Config,
    world: World,
    engine: Engine,
    validator: Validator,
    recorder: Recorder,
    step: int,
    best: dict | None,
) -> dict:
    """Measures the current weights on the validation split; exports them to `<out>/best` when they
    are the best so far.
    """
    at("validating")
    weights = engine.full_weights(everywhere=True)
    values = validator.measure(weights, world)
    recorder.write({f"validation/{name}": value for name, value in values.items()}, step)
    if best is not None and values["mAP"] <= best["mAP"]:
        return best
    if world.first:
        about = made_from(config, step) | {"validation": values}
        validator.export(config.folder / "best", about)
    return {"step": step, "mAP": values["mAP"]}


def finish(
    config: Config,
    world: World,
    recorder: Recorder,
    record: Record,
    steps: int,
    state: str,
    data: str,
) -> None:
    """Writes the export (when finished), the summary and the tracker's last entries. `data`: the
    version of the data set.
    """
    at("finishing")
    if state == FINISHED and world.first:
        weights = checkpoints.read_weights(
            checkpoints.folder_of(config.folder / "checkpoints", record.step)
        )
        export_weights(config.folder / "model", config, weights, made_from(config, record.step))
    recorder.summary(
        state,
        record.step,
        {
            "steps": steps,
            "workers": world.size,
            "accumulation": config.partition.accumulation,
            "batch": config.schedule.batch,
            "best": record.best,
            "config_hash": config.hash(),
            "inputs": record.inputs,
            "data": data,
        },
    )
    if recorder.tracker:
        close_tracker(config, recorder.tracker, record.step, state == FINISHED)
    send_lines(config, world)
    world.barrier()


def made_from(config: Config, step: int) -> dict:
    """What an export says of its origin: nothing that differs between two equal trainings."""
    return {"step": step, "config": config.identity(), "config_hash": config.hash()}
