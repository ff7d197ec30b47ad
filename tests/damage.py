"""Damaged files, seeded: what becomes of a whole file's bytes, and the readers that must survive
it.

A reader is a function that makes a small world in a folder and returns the files to damage, and one
that reads it again. A case is a number: it fixes the file and the damage. Readers run in a process
of their own, which a native decoder may take with it.
"""

import contextlib
import copy
import gzip
import json
import multiprocessing
import random
import resource
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from c2srt.errors import UserError

LONGEST, SECONDS, GIB, HANG_S = 300, 5.0, 1 << 30, 100
ODD = [
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "a" * 3000,
    "\x1b[31m\n\u202e",
    "../../victim",
    "/etc/passwd",
    "=1+1",
    "${oc.env:HOME}",
    "\ud800",
    [],
    {},
    [[[]]],
    [1, "a"],
    {"a": {"b": 1}},
    10_000_000,
    "9" * 5000,
]
WORDS = [
    b"\x1b[31m",
    b"\0" * 64,
    b"\xff" * 16,
    b"[" * 5000,
    b'{"a":' * 3000,
    b"NaN",
    b"-1",
    b"\n",
    b"1e999",
    b"a" * 2000,
    b",,,,",
    b'"',
]


@dataclass(frozen=True)
class Reader:
    """`make(folder)` → the files that are damaged; `read(folder)` raises UserError or returns."""

    name: str
    make: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]


@dataclass
class Findings:
    """What was not as it should be, by case, and the share of cases that a reader took for
    whole.
    """

    wrong: list[str] = field(default_factory=list)
    cases: int = 0
    accepted: int = 0


def damaged(content: bytes, name: str, seed: random.Random) -> bytes:
    """The content with one to four kinds of damage. Of JSON and of lines of it, half the time,
    values; of gzip what is packed.
    """
    if name.endswith(".gz") and seed.random() < 0.6:
        try:
            return gzip.compress(damaged(gzip.decompress(content), name.removesuffix(".gz"), seed))
        except (OSError, EOFError):
            return content
    if name.endswith((".json", ".jsonl")) and seed.random() < 0.6:
        return odd_json(content, seed, name.endswith(".jsonl"))
    for _ in range(seed.randint(1, 4)):
        content = seed.choice(KINDS)(content, seed)
    return content


def odd_json(content: bytes, seed: random.Random, of_lines: bool) -> bytes:
    """One value, key or line of JSON replaced by another."""
    lines = (
        [line for line in content.splitlines(keepends=True) if line.strip()]
        if of_lines
        else [content]
    )
    place = seed.randrange(len(lines))
    value = json.loads(lines[place])
    for _ in range(seed.randint(1, 3)):
        holder = walk(value, seed)
        if isinstance(holder, dict) and holder:
            key = seed.choice(list(holder))
            if seed.random() < 0.3:
                del holder[key]
            else:
                holder[key] = copy.deepcopy(seed.choice(ODD))
        elif isinstance(holder, list) and holder:
            holder[seed.randrange(len(holder))] = copy.deepcopy(seed.choice(ODD))
    text = json.dumps(value if seed.random() < 0.95 else seed.choice(ODD))
    lines[place] = text.encode() + b"\n"
    return b"".join(lines)


def walk(value: Any, seed: random.Random) -> Any:
    """A container somewhere in a JSON value."""
    while seed.random() < 0.7:
        inside = [
            below
            for below in (value.values() if isinstance(value, dict) else value)
            if isinstance(below, (dict, list)) and below
        ]
        if not inside:
            return value
        value = seed.choice(inside)
    return value


def flip(content: bytes, seed: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(seed.choice([1, 1, 2, 16])):
        if changed:
            changed[
                (
                    min(int(seed.expovariate(1 / 200)), len(changed) - 1)
                    if seed.random() < 0.5
                    else seed.randrange(len(changed))
                )
            ] = seed.randrange(256)
    return bytes(changed)


def cut(content: bytes, seed: random.Random) -> bytes:
    return content[: seed.randrange(len(content) + 1)]


def insert(content: bytes, seed: random.Random) -> bytes:
    place = seed.randrange(len(content) + 1)
    return content[:place] + seed.choice(WORDS) + content[place:]


def remove(content: bytes, seed: random.Random) -> bytes:
    place = seed.randrange(len(content) + 1)
    return content[:place] + content[place + seed.choice([1, 4, 100]) :]


def repeat(content: bytes, seed: random.Random) -> bytes:
    place = seed.randrange(len(content) + 1)
    return content[:place] + content[place : place + 500] * seed.randint(2, 20) + content[place:]


KINDS = [flip, flip, flip, cut, insert, remove, repeat]


def look(name: str, seed: int, count: int) -> Findings:
    """Runs `count` cases of a reader in a child process; one that ends the process, or never ends,
    is a finding, and the rest goes on in another process.

    The children are forked by a server that has imported everything and used nothing: polars hangs
    in a fork of a process that used it.
    """
    findings, first = Findings(), 0
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.damaged_readers"])
    while first < count:
        mine, theirs = context.Pipe(duplex=False)
        child = context.Process(target=run_cases, args=(name, seed, first, count, theirs))
        child.start()
        theirs.close()
        for case, said in received(mine):
            first = case + 1
            findings.cases += 1
            findings.accepted += said is None
            if said and said is not True:
                findings.wrong.append(f"{name} case {case} of seed {seed}: {said}")
        child.kill()
        child.join()
        if first < count:
            findings.wrong.append(
                f"{name} case {first} of seed {seed}: no end, or the end of the process"
            )
            findings.cases, first = findings.cases + 1, first + 1
    return findings


def received(mine: Connection) -> Iterator[tuple[int, Any]]:
    """What comes until the process ends, or says nothing for HANG_S."""
    while mine.poll(HANG_S):
        try:
            yield mine.recv()
        except EOFError:
            return


def run_cases(name: str, seed: int, first: int, count: int, answers: Connection) -> None:
    """Sends (case, None: taken for whole, True: one good sentence, or what is wrong) of each."""
    from tests.damaged_readers import READERS

    reader = READERS[name]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        whole = {path: path.read_bytes() for path in reader.make(folder)}
        with contextlib.suppress(UserError):
            reader.read(
                folder
            )  # once whole, so that what it imports is neither time nor memory of a case
        before = peak_bytes()
        for case in range(first, count):
            chance = random.Random(f"{seed} {name} {case}")
            path = chance.choice(list(whole))
            for other, content in whole.items():
                other.write_bytes(
                    damaged(content, other.name, chance) if other == path else content
                )
            answers.send((case, judged(reader, folder, path, before)))


def judged(reader: Reader, folder: Path, path: Path, before: int) -> Any:
    started, said = time.process_time(), None
    try:
        reader.read(folder)
    except UserError as error:
        said = (
            True
            if not (fault := faults_of(str(error), folder))
            else f"{path.name}: {fault}: {error}"
        )
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"{path.name}: {type(error).__name__} {str(error)[:100]!r} at"
            f" {where.filename.rpartition('/')[2]}:{where.lineno}"
        )
    if (took := time.process_time() - started) > SECONDS:
        return f"{path.name}: {took:.1f} s"
    if peak_bytes() - before > GIB:
        return f"{path.name}: {peak_bytes() - before:,} bytes"
    return said


def faults_of(sentence: str, folder: Path) -> str:
    """What is wrong with a sentence, or ""; the folder's own name does not count."""
    if not sentence.isprintable():
        return "control characters"
    return "too long" if len(sentence.replace(str(folder), "…")) > LONGEST else ""


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
