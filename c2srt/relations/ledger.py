"""The ledger of a mining run: JSONL, append-only, one line an event, so that a run killed at any
moment can go on.

    {"ledger": 1, "identity": {…}, "hash": "…"}
        the first line: what the questions depend on
    {"event": "ask", "id", "target", "query", "page", "attempt", "time", "bound", "prompt", …}
        written before a request is sent
    {"event": "fault", "id", "attempt", "time", "reason", "billed"}
        it failed on the way
    {"event": "reply", "id", "attempt", "time", "final", "verdict", "text", "endpoint", "model",
     "finish", "tokens": [in, out], "cost", "related", "unusable"}
    {"event": "settle", "id", "time", "final", "related"}
        an earlier reply is taken after all

A request's id is the hash of (identity, target, query, page). Its answer is the one event with
`final` true: a reply that cannot be read or invents names is kept, with `final` false, and the
question asked again; when that was done often enough, the one with the most usable names is taken.
`related` is [[column, relation type, strength 1–3]…] in the order of the reply. An `ask` without
`fault` or `reply` was under way when a run died; its `bound` counts as spent. Costs and bounds are
in USD.

A torn last line, from a kill in the middle of a write, is cut off on opening. Lines reach the
operating system at once (a killed process loses none) and the disk every second.
"""

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from c2srt.bounds import Amount, Count, Within
from c2srt.errors import UserError
from c2srt.files import hash_of, raise_if_storage, storage_faults
from c2srt.lock import LOCK, only_writer
from c2srt.opened import LINE_BYTES, json_line, parse_json, read_lines
from c2srt.shown import shown

log = logging.getLogger(__name__)

FORMAT = 1
SYNC_EVERY_S = 1.0
MOST_BYTES = (
    64 << 30
)  # read line by line; every prompt of Open Images, asked three times, has about 4 GB
REMEDY = "restore the file, or start anew with another out=…"
Related = list[tuple[Count, str, Annotated[float, Within(ge=0, le=3)]]]


@dataclass(frozen=True)
class RequestEvent:
    """What the lines must have, by event. A request that is sent."""

    event: Literal["ask"]
    id: str
    bound: Amount


@dataclass(frozen=True)
class FaultEvent:
    """A request that failed."""

    event: Literal["fault"]
    id: str
    billed: bool


@dataclass(frozen=True)
class ReplyEvent:
    """A reply."""

    event: Literal["reply"]
    id: str
    final: bool
    verdict: str
    time: str
    endpoint: str
    model: str
    tokens: tuple[Count | None, Count | None]
    cost: Amount
    related: Related | None
    unusable: list[str]


@dataclass(frozen=True)
class SettleEvent:
    """An earlier reply that is taken after all."""

    event: Literal["settle"]
    id: str
    final: bool
    related: Related


Event = Annotated[
    RequestEvent | FaultEvent | ReplyEvent | SettleEvent, Field(discriminator="event")
]


@dataclass
class State:
    """What the events so far add up to. `final`: ids that have their answer; `attempts`: replies
    had by those that have none; `replies`: how many there were in all; `best`: the most useful of
    the unclean ones, if any could be read; `open`: bounds of requests under way; `spent` in USD.
    """

    final: set[str] = field(default_factory=set)
    attempts: dict[str, int] = field(default_factory=dict)
    best: dict[str, dict] = field(default_factory=dict)
    open: dict[str, float] = field(default_factory=dict)
    spent: float = 0.0
    replies: int = 0

    def take(self, event: dict) -> None:
        """One more event, in order."""
        key, kind = event.get("id", ""), event.get("event")
        if kind == "ask":
            self.spent += self.open.pop(key, 0.0)  # an earlier one of the same id never came back
            self.open[key] = event["bound"]
        elif kind == "fault":
            bound = self.open.pop(key, 0.0)
            self.spent += bound if event["billed"] else 0.0
        elif kind == "reply":
            self.open.pop(key, None)
            self.replies += 1
            self.spent += event["cost"]
            if event["final"]:
                self.close(key)
            else:
                self.attempts[key] = self.attempts.get(key, 0) + 1
                if event["related"] is not None:
                    self.best[key] = better(self.best.get(key), event)
        elif kind == "settle":
            self.close(key)

    def close(self, key: str) -> None:
        """This question has its answer."""
        self.final.add(key)
        self.attempts.pop(key, None)
        self.best.pop(key, None)


def better(one: dict | None, other: dict) -> dict:
    """The reply that names more usable categories; the earlier of equals."""
    return other if one is None or len(other["related"]) > len(one["related"]) else one


class Ledger:
    """Appends to `path` while holding its lock; `state` is what was there. Use it as a context
    manager.

    Raises UserError if another command holds it, if it is of another label list or other settings,
    or damaged before its last line.
    """

    def __init__(self, path: Path, identity: dict) -> None:
        self.path, self.identity, self.state = path, identity, State()
        self._lock = only_writer(path.with_name(f"{path.name}.{LOCK}"))
        self._synced = time.monotonic()

    def __enter__(self) -> "Ledger":
        with ExitStack() as opened:
            opened.enter_context(self._lock)
            with storage_faults(self.path):
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            opened.callback(os.close, self._file)
            self._cut_torn_line()
            if os.fstat(self._file).st_size:
                self._resume()
            if os.fstat(self._file).st_size == 0:
                self.append(
                    {"ledger": FORMAT, "identity": self.identity, "hash": hash_of(self.identity)}
                )
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._opened:
            os.fsync(self._file)

    def append(self, event: dict) -> None:
        """One line, whole in the operating system when this returns."""
        line = json.dumps(event, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        try:
            while line:
                line = line[os.write(self._file, line) :]
            if time.monotonic() - self._synced > SYNC_EVERY_S:
                os.fsync(self._file)
                self._synced = time.monotonic()
        except OSError as error:
            raise_if_storage(error, self.path)
            raise

    def _resume(self) -> None:
        """Takes what earlier runs left; empties a ledger that cost nothing and taught nothing, so
        that a first try with a wrong model or key does not bind the next one.
        """
        old = read_header(self.path)
        for event in events(self.path):
            self.state.take(event)
        if not self.state.replies and not self.state.spent and not self.state.open:
            os.ftruncate(self._file, 0)
            self.state = State()
        else:
            check_identity(self.path, old, self.identity)

    def _cut_torn_line(self) -> None:
        size = os.fstat(self._file).st_size
        with self.path.open("rb") as file:
            end = size
            while end and (block := min(end, 1 << 16)):
                file.seek(end - block)
                newline = file.read(block).rfind(b"\n")
                if newline >= 0:
                    end = end - block + newline + 1
                    break
                end -= block
        if end < size:
            os.truncate(self._file, end)
            log.info(
                f"{self.path}: cut off {size - end:,} bytes of a line that a killed run left"
                " unfinished"
            )


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_header(path: Path) -> dict:
    """The identity of a ledger. Raises UserError if the file is something else."""
    with path.open("rb") as file:
        line = file.readline(LINE_BYTES)
    try:
        header = parse_json(line)
    except ValueError:
        header = None
    if (
        not isinstance(header, dict)
        or "ledger" not in header
        or not isinstance(header.get("identity"), dict)
    ):
        raise UserError(f"{path} is not a ledger of relations mine: choose another out=…")
    if header["ledger"] != FORMAT:
        raise UserError(
            f"{path} has ledger format {shown(header['ledger'])}, this version reads {FORMAT}:"
            " choose another out=…"
        )
    return header["identity"]


def check_identity(path: Path, old: dict, identity: dict) -> None:
    """Raises UserError unless the ledger's questions are those of `identity`."""
    if old.get("vocabulary") != identity["vocabulary"]:
        raise UserError(
            f"{path} was mined for another label list (vocabulary {shown(old.get('vocabulary'))},"
            f" not {identity['vocabulary']}): choose another out=…, or give the label list it was"
            " mined for"
        )
    if changed := sorted(key for key in {*old, *identity} if old.get(key) != identity.get(key)):
        key = changed[0]
        raise UserError(
            f"{path} was mined with {shown(key)}={shown(old.get(key))}, not"
            f" {shown(identity.get(key))}: choose another out=…, or keep {shown(key)}"
        )


def events(path: Path) -> Iterator[dict]:
    """Every event but the header, one at a time. Raises UserError on a line that is none."""
    for number, line in read_lines(path, REMEDY, MOST_BYTES):
        if number > 1:
            yield json_line(line, path, number, "a ledger line", REMEDY, Event)
