"""One writer of a place at a time, on whatever node: an object `lock` that is written only if there
is none (S3's conditional writes), and again every BEAT_S while its command lives.

One that has not changed for LEASE_S belongs to a command that was killed: it is taken over, by a
write that fails if another was faster. A store without conditional writes has no locks, which a
line says before anything is written.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from c2srt.errors import UserError
from c2srt.scratch import Meta, Place, origin
from c2srt.storage.mirror import bucket_of

log = logging.getLogger(__name__)

LOCK = "lock"
BEAT_S, LEASE_S = 15.0, 60.0


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """This command alone writes below the place of a folder. Raises UserError if another one does,
    or if nothing may be written there.
    """
    place = origin(folder)
    if place is None:
        yield
        return
    claim = Claim(place)
    claim.take()
    claim.start()
    try:
        yield
    finally:
        claim.give_back()


class Claim:
    """The lock of a place. `tag` is its present version, None without one."""

    def __init__(self, place: Place) -> None:
        self.place, self.key = place, f"{place.key}/{LOCK}" if place.key else LOCK
        self.store, self.ended = bucket_of(place), threading.Event()
        self.thread = threading.Thread(target=self.beat, daemon=True)
        self.tag: str | None = None

    def text(self) -> bytes:
        return f"{socket.gethostname()} {os.getpid()} {time.time_ns()}\n".encode()

    def take(self) -> None:
        """Raises UserError if another command holds it."""
        from c2srt.storage.stores import NoConditions, Taken

        try:
            try:
                self.tag = self.store.put(self.key, self.text(), new=True)
            except Taken:
                self.tag = self.taken_over()
        except Taken:
            raise self.in_use() from None
        except NoConditions:
            log.warning(
                f"{self.place}: this store has no conditional writes and so no locks: take care"
                " that only one command writes there"
            )

    def taken_over(self) -> str:
        """The lock of a command that is dead: it has not written it anew for LEASE_S. Raises Taken
        where it lives, or another one was faster.
        """
        from c2srt.storage.stores import Taken

        before = self.store.meta(self.key)
        if before is None:
            return self.store.put(self.key, self.text(), new=True)
        if not self.holder_is_dead():
            log.info(f"waiting for the command that writes {self.place}, at most {LEASE_S:.0f} s")
            until = time.monotonic() + LEASE_S
            while time.monotonic() < until:
                time.sleep(min(1.0, BEAT_S))
                now = self.store.meta(self.key)
                if now is None:
                    return self.store.put(self.key, self.text(), new=True)
                if now.tag != before.tag:
                    raise Taken
        return self.store.put(self.key, self.text(), instead=before.tag)

    def holder(self) -> list[str]:
        """Host, process and time of whoever has it."""
        meta = self.store.meta(self.key)
        if meta is None or meta.size > 1000:
            return []
        said = b""
        with suppress(UserError):  # of any version: it is written again and again
            said = self.store.read(self.key, 0, meta.size, Meta(meta.size, ""))
        return said.decode(errors="replace").split()[:2]

    def holder_is_dead(self) -> bool:
        """Whether it is a process of this machine that is gone: nobody needs to wait for it."""
        host, *process = self.holder() or ["", ""]
        if host != socket.gethostname() or not process or not process[0].isdecimal():
            return False
        try:
            os.kill(int(process[0]), 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return int(process[0]) == os.getpid()

    def in_use(self) -> UserError:
        return UserError(
            f"another command is writing {self.place} (host and process"
            f" {' '.join(self.holder()) or 'unknown'}): wait for it, or choose another out=…"
        )

    def start(self) -> None:
        if self.tag:
            self.thread.start()

    def beat(self) -> None:
        """Says again and again that the command lives."""
        from c2srt.storage.stores import Taken

        while self.tag and not self.ended.wait(BEAT_S):
            try:
                self.tag = self.store.put(self.key, self.text(), instead=self.tag)
            except Taken:
                self.tag = self.still_ours()
                if self.tag is None:
                    log.warning(f"{self.place} was taken over by another command: stop one of them")
            except UserError as error:
                log.warning(str(error))

    def still_ours(self) -> str | None:
        """The version of a lock that this command wrote without hearing of it; None where another
        one has it.
        """
        with suppress(UserError):
            meta = self.store.meta(self.key)
            if meta and self.holder() == [socket.gethostname(), str(os.getpid())]:
                return meta.tag
        return None

    def give_back(self) -> None:
        self.ended.set()
        if self.tag:
            self.thread.join()
        if self.tag:
            with suppress(UserError):
                self.store.remove([self.key])
