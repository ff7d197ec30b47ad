"""`c2srt demo`: draws the miniature, pre-trains its CLIP, runs the whole workflow with ordinary
commands.

Every step is printed as the command that does the same; nothing here is done that a person could
not type. Run again it goes on where it stopped: each command knows what it has finished.
"""

import logging
import time
from pathlib import Path

from c2srt.artefact import is_marked
from c2srt.demo.config import Config
from c2srt.demo.raw import MARK, raw_key, write_raw
from c2srt.demo.words import World
from c2srt.hints import Command
from c2srt.jobs import Jobs
from c2srt.opened import read_json
from c2srt.processes import kept
from c2srt.progress import clock
from c2srt.tables.commands import evaluate_untrained
from c2srt.tables.rows import CLIP, PRIOR, Row, controls_of, for_data, trained_rows, trials
from c2srt.tables.runner import Runner, prepare_clips, train_missing

log = logging.getLogger(__name__)

BEFORE, ROW, ANOTHER_CLIP = 3.5, 17.0, 27.0
"""What else the default demo takes, in units of the time in which its pictures are drawn: up to the
untrained rows, each trained row, and each further CLIP with what is made of it. Of one run on two
quiet cores; crowded or larger machines divide their time otherwise, so it is said as an estimate.
"""
DRAWN_S = 2.0
"""A shorter drawing tells nothing: it was there, or is a test's."""
UNTRAINED = (Row(PRIOR, untrained=PRIOR), Row(CLIP, untrained=CLIP))


@kept()
def run(config: Config, jobs: Jobs) -> None:
    """Runs the workflow and writes <out>/table.md, table.json (all tables of the run) and
    predictions.png.
    """
    from c2srt.demo.report import report  # torch and matplotlib: not needed to print --help

    started, workspace, runner = time.monotonic(), config.workspace, Runner(Command("demo"), jobs)
    tables = for_data(config.tables, "miniature")
    rows, every = trained_rows(tables), trials(config.seeds, config.seeds)
    draw(runner, config, config.drawn)
    if left := estimate(time.monotonic() - started, config, len(rows) * len(every)):
        log.info(f"   about {left} more for all that follows, judging by the drawing")
    for clip in range(config.seeds):
        prepare_clip(runner, config, clip)
    runner.run(workspace.command("shard", 0))
    prepare_clips(runner, workspace, list(range(config.seeds)), rows, controls_of(tables))
    for row, clip in (
        (row, clip)
        for clip in range(config.seeds)
        for row in UNTRAINED
        if row.untrained != PRIOR or clip == 0
    ):
        runner.run(evaluate_untrained(workspace, row, (clip, 0)))
    train_missing(runner, workspace, [(row, trial) for trial in every for row in rows])
    following = report(config, runner, tables)
    log.info(f"\nThe whole demo took {clock(time.monotonic() - started)}.\n{following}")


def draw(runner: Runner, config: Config, world: World) -> None:
    """The raw miniature of a world, unless it is there."""
    root = Path(config.work) / "raw"
    with runner.step("draw", f"# a miniature Open Images in {root}"):
        if is_marked(root / MARK, raw_key(config.seed, config.pictures, world), Command("demo")):
            log.info(f"   {root} is up to date")
            return
        write_raw(root, config.seed, config.pictures, config.workers, world)


def estimate(drawing: float, config: Config, trainings: int) -> str | None:
    """The time of what follows the drawing, from its seconds; None if that was done before."""
    if drawing < DRAWN_S:
        return None
    further = config.seeds - 1 + config.pretrain
    return clock(drawing * (BEFORE + ROW * trainings + ANOTHER_CLIP * further))


def prepare_clip(runner: Runner, config: Config, clip: int) -> None:
    """The CLIP, unless it is there: the one of the package, or a pre-trained one."""
    from c2srt.demo.pretrain import clip_key, pretrain
    from c2srt.demo.shipped import is_shipped, unpack

    folder, seed = config.workspace.of_clip(clip) / "clip", config.seed + clip
    mark = folder / "clip.json"
    ours = is_shipped(seed, config.drawn) and not config.pretrain
    made = "that comes with the package" if ours else "pre-trained on captioned pictures"
    with runner.step("pre-train", f"# a tiny CLIP {made}, in {folder}"):
        if is_marked(mark, clip_key(seed, config.drawn), Command("demo")) and (
            ours or not came_along(mark)
        ):
            log.info(f"   {folder} is up to date")
        elif ours:
            unpack(folder, seed)
        else:
            pretrain(folder, seed, config.workers, config.drawn)


def came_along(mark: Path) -> bool:
    """Whether a CLIP is the package's, not one that was pre-trained here."""
    return "shipped" in read_json(mark, Command("demo"))
