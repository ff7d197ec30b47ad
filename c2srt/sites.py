"""How often a site is asked, and when it is left alone: a pace and a circuit breaker for each.

A site is a domain (c1.staticflickr.com and farm2.staticflickr.com are one: whoever counts our
requests counts all of them), or a host and port that a URL names by their address. Every request
goes through its `enter`, redirects and further tries, too, and leaves no sooner than
`1 / rate` seconds after the last. Of W tasks that run beside each other each has 1/W of the rate:
that holds on any number of machines, without one that has to be asked.

    open     requests leave at the pace
    closed   after an answer that asks for it (HTTP 429, a Retry-After), or when ENOUGH files failed
             without an answer in between: nobody is let through until the pause is over, then one
             alone, who opens it again or doubles the pause
    given up closed for longer than `download.patience`, or nothing ever came from it: its files
             are unreachable, without a request, as long as this object lives

What one file meets says little of its site: Flickr answers some with 429 for ever, and at the end
of a shard there may be no others. So fewer than ENOUGH are never taken for it. Each 429 halves the
pace, down to 1/SLOWEST; answers bring it back.
"""

import logging
import math
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import httpx2

from c2srt.download_config import POLITE, DownloadConfig
from c2srt.exchange import is_public, literal, place_of

log = logging.getLogger(__name__)
ENOUGH = 10
"""Files that fail, for the fault to be their site's."""
SLOWEST = 64.0
RECOVERY = 0.98
"""After each answer; 35 of them undo one 429."""
POLL_S = 0.5
LOUD_S = 10.0
"""Pauses of that length are told."""


@dataclass(frozen=True)
class Closed:
    """A site that is not to be asked before a Unix time."""

    until: float
    reason: str


class GivenUp(Exception):
    """The site is not asked any more."""


class Site:
    """One site's state, for all threads of a process."""

    def __init__(self, name: str, interval: float, config: DownloadConfig) -> None:
        """`interval`: seconds between two requests."""
        self.name, self.interval, self.config = name, interval, config
        self.changed = threading.Condition()
        self.last = self.left_at = self.opens = -math.inf  # of time.monotonic
        self.writing = threading.Lock()
        self.slowed = 1.0
        self.since = 0.0  # when it was closed, if it is
        self.answers = self.pauses = self.used_up = 0
        self.failing: set[str] = set()  # files, since something came
        self.epoch = 0  # times that it was closed
        self.closed = self.probing = self.asks = False
        self.given_up = self.reason = ""

    @property
    def fails(self) -> bool:
        """As a whole."""
        return self.closed and len(self.failing) >= ENOUGH

    def enter(self, stopped: threading.Event) -> int:
        """Waits until a request may leave; returns the epoch that it leaves in. Raises GivenUp."""
        with self.changed:
            while (wait := self.to_wait(stopped)) > 0:
                self.changed.wait(min(wait, POLL_S))
            self.last, self.probing = time.monotonic(), self.closed
            return self.epoch

    def to_wait(self, stopped: threading.Event) -> float:
        if self.given_up or stopped.is_set():
            raise GivenUp(self.given_up or "stopped")
        if self.closed and self.probing:
            return POLL_S
        due = max(self.opens, self.last + self.interval * self.slowed)
        return due - time.monotonic()

    @contextmanager
    def leaving(self, stopped: threading.Event) -> Iterator[None]:
        """Round the writing of a request, which what came after `enter` may have held up while
        others were let through.
        """
        if not self.interval:
            yield
            return
        with self.writing:
            due = self.left_at + self.interval * self.slowed
            stopped.wait(max(0.0, due - time.monotonic()))
            yield
            self.left_at = time.monotonic()

    def answered(self, epoch: int) -> None:
        """Of a request of that epoch, whether it brought a file or says that there is none."""
        with self.changed:
            self.answers += 1
            self.slowed = max(1.0, self.slowed * RECOVERY)
            if epoch == self.epoch or not self.closed:
                self.failing.clear()
            if epoch == self.epoch and self.closed:
                self.pauses, self.closed, self.probing = 0, False, False
                self.changed.notify_all()

    def failed(self, epoch: int, file: str, reason: str, asks: bool, wait: float) -> None:
        """Of a request of that epoch for `file`; `asks`: the site asks for a pause, of `wait`
        seconds.
        """
        with self.changed:
            self.failing.add(file)
            self.asks |= asks
            many = self.answers and len(self.failing) >= ENOUGH
            if not (asks or many or self.closed):
                return
            self.reason, patience = reason, self.config.patience
            too_long = wait > patience
            if epoch == self.epoch:  # others that left before it was closed say nothing new
                wait = max(wait, self.close(asks))
            self.opens = max(self.opens, time.monotonic() + wait)
            if too_long or self.fails and self.opens - self.since > patience:
                self.give_up(f"{reason}: nothing for longer than download.patience={patience:g}")
            elif wait >= LOUD_S:
                log.warning(f"{self.name} is left alone for {wait:,.0f} s ({reason})")
            self.changed.notify_all()

    def close(self, asks: bool) -> float:
        """Returns the seconds of its pause."""
        if not self.closed:
            self.since = time.monotonic()
        self.closed, self.probing = True, False
        self.epoch += 1
        if asks:
            self.slowed = min(SLOWEST, self.slowed * 2)
        self.pauses += 1
        return growing(self.config, self.pauses)

    def give_up(self, reason: str) -> None:
        if not self.given_up:
            log.warning(f"{self.name} is given up for now ({reason})")
        self.given_up = reason

    def left(self, epoch: int) -> None:
        """Of a request that says nothing about the site: another may go and see."""
        with self.changed:
            if epoch == self.epoch:
                self.probing = False
                self.changed.notify_all()

    def file_used_up(self, reason: str) -> None:
        """A file has no tries left."""
        with self.changed:
            self.used_up += 1
            if not self.answers and not self.asks and self.used_up >= ENOUGH:
                self.give_up(f"{reason}: nothing ever came from there")
                self.changed.notify_all()


class Sites:
    """All sites of a process."""

    def __init__(
        self,
        config: DownloadConfig,
        tasks: int = 1,
        closed: Mapping[str, Closed] | None = None,
    ) -> None:
        """`tasks` that run beside each other share the rate. `closed`: by name, those that were not
        to be asked for some time.
        """
        self.config, self.tasks, self.closed_before = config, tasks, closed or {}
        self.sites: dict[str, Site] = {}
        self.lock = threading.Lock()

    def of(self, url: httpx2.URL) -> Site:
        """Raises httpx2.InvalidURL."""
        host, port = place_of(url)
        name = site_name(host, port)
        with self.lock:
            if name not in self.sites:
                self.sites[name] = self.make(name, host)
            return self.sites[name]

    def make(self, name: str, host: str) -> Site:
        site = Site(name, self.tasks / self.rate(host), self.config)
        if known := self.closed_before.get(name):
            left = known.until - time.time()
            if left > 0:
                site.failed(0, "", known.reason, True, left)
        return site

    def rate(self, host: str) -> float:
        """Requests a second."""
        if self.config.rate != "polite":
            return self.config.rate
        address = literal(host)
        return POLITE if address is None or is_public(address) else float("inf")

    def closed(self) -> dict[str, Closed]:
        """Those that are not to be asked for some time, by name."""
        now, clock = time.monotonic(), time.time()
        with self.lock:
            return {
                site.name: Closed(clock + site.opens - now, site.reason)
                for site in self.sites.values()
                if site.closed and site.opens > now
            }


class Visit:
    """One exchange, which redirects may lead from site to site."""

    def __init__(self, sites: Sites, file: str, stopped: threading.Event) -> None:
        self.sites, self.file, self.stopped = sites, file, stopped
        self.site: Site | None = None  # until it is told what became of the request
        self.last: Site | None = None
        self.epoch = 0

    def enter(self, url: httpx2.URL) -> None:
        """Before each request. Raises GivenUp, httpx2.InvalidURL."""
        self.answered()  # by a redirect
        site = self.sites.of(url)
        self.epoch = site.enter(self.stopped)
        self.site = self.last = site

    def leaving(self) -> AbstractContextManager[None]:
        """Round the writing of a request that was let through."""
        return self.last.leaving(self.stopped) if self.last else nullcontext()

    def answered(self) -> None:
        if self.site:
            self.site.answered(self.epoch)
        self.site = None

    def failed(self, reason: str, asks: bool, wait: float | None) -> None:
        if self.site:
            self.site.failed(self.epoch, self.file, reason, asks, wait or 0)
        self.site = None

    def left(self) -> None:
        """Whatever became of it."""
        if self.site:
            self.site.left(self.epoch)
        self.site = None


def site_name(host: str, port: int) -> str:
    """A domain is the last two labels of a name, three where the country's are grouped (co.uk)."""
    if literal(host):
        return f"{host}:{port}"
    labels = host.lower().rstrip(".").split(".")
    grouped = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3
    return ".".join(labels[-3 if grouped else -2 :])


def growing(config: DownloadConfig, number: int) -> float:
    """Seconds of the wait `number`, from 1: doubling, with jitter."""
    wait = config.backoff * 2.0 ** min(number - 1, 60)
    return min(config.backoff_max, wait + random.uniform(0, config.backoff))
