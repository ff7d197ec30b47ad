"""Where each rank of a training stands, kept on its node's own disk for whoever asks after a hang:
a stopped process cannot be asked itself.

    <node folder>/standing/<attempt>/rank-<r>          what `FORM` says, mapped into memory
                                     rank-<r>.stack    the Python stacks of all of its threads, once
                                                       it has stood in one place for too long
                                     nodes.json        the node of every rank
                                     collectives-<r>   what NCCL was at, written by torch's flight
                                                       recorder on a time-out

Writing down a place is a copy of a few bytes: no system call, nothing on shared storage. (The node
folder is that of c2srt/node_folder.py.)
"""

import faulthandler
import json
import mmap
import os
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from c2srt.errors import LoaderFailed, UserError
from c2srt.files import write_json
from c2srt.node_folder import node_folder

FOLDER, NODES, COLLECTIVES = "standing", "nodes.json", "collectives-"
FORM = struct.Struct("<qqdd64s")
"""Process id, step, since when, last sign of life (both by the node's monotonic clock), place."""
ALIVE = struct.Struct("<d")
ALIVE_AT = struct.calcsize("<qqd")
BEAT_S = 1.0
SHARE = 0.7
"""Of `faults.collective_timeout`, after which stacks are written: before anybody gives up."""
LONG_S = 3600
"""Without a sign of life of any of its ranks: an attempt that was killed and that nobody asks for.
"""
STACK = 20_000
"""Characters that are kept of a rank's stacks."""
Item = TypeVar("Item")


class Standing:
    """This rank's; `at` may be called from one thread only, and a thread of its own gives signs of
    life.
    """

    def __init__(self, folder: Path, rank: int, patience: float) -> None:
        """`patience`: seconds in one place after which the stacks are written."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.patience = folder / f"rank-{rank}", patience
        with self.path.open("w+b") as file:
            os.posix_fallocate(file.fileno(), 0, FORM.size)  # a full disk is not met in the memory
            self.memory = mmap.mmap(file.fileno(), FORM.size)
        self.process, self.step, self.mark = os.getpid(), 0, ("", 0.0)
        self.ended = threading.Event()
        self.at("starting")
        threading.Thread(target=self.live, name="c2srt-standing", daemon=True).start()

    def at(self, place: str, step: int | None = None) -> None:
        """Notes the place, and the step that is begun."""
        self.step, now = self.step if step is None else step, time.monotonic()
        self.mark = place, now
        FORM.pack_into(self.memory, 0, self.process, self.step, now, now, place.encode()[:64])

    def live(self) -> None:
        """Gives signs of life, and writes the stacks where the rank does not get on."""
        written = None
        while not self.ended.wait(BEAT_S):
            now, mark = time.monotonic(), self.mark
            ALIVE.pack_into(self.memory, ALIVE_AT, now)
            if mark is not written and now - mark[1] > self.patience:
                written = mark
                with (
                    suppress(OSError),
                    self.path.with_suffix(".stack").open("w", encoding="utf-8") as file,
                ):
                    faulthandler.dump_traceback(file, all_threads=True)

    def close(self) -> None:
        """The rank is done: nobody needs to ask. Others of its node may be closing, too."""
        self.ended.set()
        with suppress(OSError):
            for path in (self.path, self.path.with_suffix(".stack")):
                path.unlink(missing_ok=True)
            if not list(self.path.parent.glob("rank-*")):  # the last one of the node
                shutil.rmtree(self.path.parent, ignore_errors=True)


HERE: list[Standing] = []
"""This process's, if it has one."""


@contextmanager
def standing(attempt: str, rank: int, nodes: list[str], timeout: float) -> Iterator[None]:
    """Meanwhile where this process stands is written down, where its node has a folder for that;
    `nodes` are those of the ranks. After a failure it stays, but for a wrong input.
    """
    HERE.clear()
    try:
        folder = folder_of(attempt)
        forget_the_killed(folder.parent)
        HERE.append(Standing(folder, rank, SHARE * timeout))
        write_json(folder / NODES, nodes)
    except OSError:  # a full disk, or someone else's folder: the training goes on without
        yield
        return
    try:
        yield
    except UserError as error:
        if not isinstance(error, LoaderFailed):
            HERE.pop().close()
        raise
    HERE.pop().close()


def forget_the_killed(folder: Path) -> None:
    """Removes what killed attempts, a power cut or `scancel`, left on this node."""
    for attempt in folder.glob("*"):
        with suppress(OSError):  # another rank removes it, too
            ranks = [path for path in attempt.glob("rank-*") if not path.suffix]
            stood = [one for one in map(read_rank, ranks) if one]
            if stood and all(abs(one.alive) > LONG_S for one in stood):  # < 0: the node restarted
                shutil.rmtree(attempt)


def record_collectives(attempt: str) -> None:
    """Lets torch's flight recorder write there what NCCL is at when a collective is given up; what
    the user said stays. Before the first collective.
    """
    try:
        place = str(folder_of(attempt) / COLLECTIVES)
    except OSError:
        return
    for prefix in ("TORCH_FR", "TORCH_NCCL"):  # today's names, and those of before
        os.environ.setdefault(f"{prefix}_DUMP_ON_TIMEOUT", "1")
    for name in ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"):
        os.environ.setdefault(name, place)


def folder_of(attempt: str) -> Path:
    return node_folder() / FOLDER / attempt


def at(place: str, step: int | None = None) -> None:
    """This process is at `place` now."""
    if HERE:
        HERE[-1].at(place, step)


def read_by(items: Iterable[Item], step: int) -> Iterator[Item]:
    """Passes items on, noting whether the step reads one or computes with it."""
    iterator = iter(items)
    while True:
        at("reading its batch", step)
        item = next(iterator, None)
        at("computing and exchanging gradients")
        if item is None:
            return
        yield item


# --- asked afterwards


class Stood(NamedTuple):
    """Where a rank stood when it was last heard of; seconds before now."""

    rank: int
    node: str
    process: int
    step: int
    place: str
    since: float
    alive: float
    stack: str


class Found(NamedTuple):
    """What one node knows of an attempt: its ranks, and the node of every rank."""

    stood: list[Stood]
    nodes: list[str]


def stood_here(attempt: str, kept: Path) -> Found:
    """This node's ranks of the attempt, whose folder is then removed; what NCCL was at is copied
    to `kept`.
    """
    folder = folder_of(attempt)
    if not folder.is_dir():
        return Found([], [])
    try:
        found = [read_rank(path) for path in sorted(folder.glob("rank-*")) if not path.suffix]
        known = folder / NODES
        nodes = json.loads(known.read_text(encoding="utf-8")) if known.exists() else []
        for path in folder.glob(f"{COLLECTIVES}*"):
            kept.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, kept / path.name)
        return Found([one for one in found if one], nodes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_rank(path: Path) -> Stood | None:
    """What a rank's files say; None where it was killed as it made them."""
    data, now = path.read_bytes(), time.monotonic()
    if len(data) != FORM.size:
        return None
    process, step, since, alive, place = FORM.unpack(data)
    stack = path.with_suffix(".stack")
    text = stack.read_text(encoding="utf-8", errors="replace") if stack.exists() else ""
    rank, name = int(path.name.removeprefix("rank-")), place.rstrip(b"\0").decode()
    return Stood(
        rank, socket.gethostname(), process, step, name, now - since, now - alive, text[:STACK]
    )
