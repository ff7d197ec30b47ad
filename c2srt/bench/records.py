"""`c2srt bench records`: what a record of many nodes takes rank 0's training thread, and what their
journal takes a restart after days.

The nodes are made up (many_nodes.py); what is made of what they tell is the training's own recorder
and tracker, without a store. A record is one that holds what the nodes are doing, as one in
`tracking.node_seconds` does. An "image" is a record, and of the restarts a restart.
"""

import atexit
import itertools
import logging
import re
import shutil
import tempfile
from functools import partial
from pathlib import Path

from c2srt.bench.config import Config
from c2srt.bench.many_nodes import ManyNodes
from c2srt.bench.tracking import FLUSHES, block
from c2srt.profiling import Side
from c2srt.tracking import JOURNAL, Journal, Run, Tracker
from c2srt.tracking.journal import parsed
from c2srt.tracking.seen import Seen
from c2srt.tracking.sender import NOTED_EVERY
from c2srt.train.key_groups import RecordConfig
from c2srt.train.recorder import Recorder

log = logging.getLogger(__name__)

DAY_S, GPUS = 86_400, 8
RECORD_S, NODE_S = RecordConfig().seconds, RecordConfig().node_seconds


def records(config: Config) -> list[Side]:
    folder = Path(tempfile.mkdtemp(prefix="c2srt-records-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "nodes").mkdir()
    tracker = Tracker(folder / "nodes", f"sqlite:///{folder}/none.db", Run("bench", "", {}, {}))
    tracker.sender.end()  # it is not sent
    world = ManyNodes(config.nodes, GPUS)
    recorder = Recorder(folder / "nodes", world, tracker, 0, 1 << 30, 1, node_seconds=0)
    recorder.progress = None
    block(recorder, itertools.count(1), None)
    without, whole = entries_of(tracker.journal)
    day = DAY_S / RECORD_S * len(without) + DAY_S / NODE_S * len(whole)
    log.info(
        f"journal: {len(without)} bytes a record, {len(whole)} what {config.nodes} nodes are doing;"
        f" {day / 1e6:.1f} MB a day at one in {RECORD_S:g} and {NODE_S:g} s"
    )
    journals = {name: folder / name for name in ("noted", "old")}
    for name, place in journals.items():
        write_journal(place, config.days, without, whole, name == "noted")
    size = (folder / "old" / JOURNAL).stat().st_size / 1e6
    return [
        Side(
            f"a record of {config.nodes} nodes × {GPUS} GPUs",
            partial(block, recorder, itertools.count(10), None),
            FLUSHES,
            baseline=True,
        ),
        Side(
            f"a restart after {config.days} days ({size:,.0f} MB)",
            lambda: Journal(journals["noted"]).seen(),
            baseline=True,
            numpy=True,
        ),
        Side(
            "the same, of a version that noted nothing",
            lambda: Journal(journals["old"]).seen(),
            numpy=True,
        ),
    ]


def entries_of(journal: Journal) -> tuple[bytes, bytes]:
    """The last record in a journal, and the last entry of what the nodes are doing."""
    found: dict[bool, bytes] = {}
    for line, _ in journal.every_line():
        if line.startswith(b'{"metrics"'):
            found[b'"system/' in line] = line
    return found[False], found[True]


def write_journal(folder: Path, days: int, record: bytes, nodes: bytes, noted: bool) -> None:
    """What a training of some days leaves; `noted`: all but the last NOTED_EVERY bytes are."""
    folder.mkdir()
    journal, seen = Journal(folder), Seen()
    both = record * round(NODE_S / RECORD_S) + nodes
    every = re.sub(rb'"step": \d+, ', b'"step": %d, ', both)
    steps = tuple(range(every.count(b"%d")))
    with journal.path.open("wb") as file:
        for number in range(round(days * DAY_S / NODE_S)):
            file.write(every % tuple(1000 * number + step for step in steps))
    if noted:
        for line in both.splitlines():
            seen.add(parsed(line), 0, journal.size)
        journal.note(seen=vars(seen))
        with journal.path.open("ab") as file:
            file.write(both * (NOTED_EVERY // len(both)))
