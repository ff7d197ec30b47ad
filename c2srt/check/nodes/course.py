"""The course of a check: what is asked of the nodes, in which order, and how long it may take."""

import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from c2srt.check.nodes.hub import Hub
from c2srt.check.nodes.plan import (
    CLOCK,
    LINKS,
    LOADER,
    MACHINE,
    PLACES,
    REACH,
    SECONDS,
    VERSIONS,
    Places,
    Plan,
)
from c2srt.check.nodes.rounds import rounds
from c2srt.errors import UserError

SHARES = {
    "hello": 40,
    "clock": 5,
    "versions": 20,
    "machine": 10,
    "keys": 20,
    "places": 15,
    "words": 12,
    "remove": 5,
    "listen": 10,
    "visit": 12,
    "doors": 5,
    "begin": 5,
    "torch": 45,
    "host": 5,
    "join": 25,
    "all_reduce": 20,
    "exchange": 10,
    "loader": 20,
}
"""Seconds for each question, of a check of SECONDS: most are answered in one."""
DOES = {
    "hello": "Slurm or Ray starts nothing there, or Python does not start",
    "keys": "it composes the training's keys",
    "places": "it looks at the folders: its shared storage hangs",
    "words": "it looks at the folders: its shared storage hangs",
    "torch": "it imports torch: the disk that holds the environment is slow",
    "join": "it joins the other ranks",
    "all_reduce": "it exchanges with the other ranks",
    "exchange": "it exchanges with another rank",
    "loader": "it loads images: the storage that holds the shards is slow",
}
PINGS = 5
LOADS_S = 4.0
ROUNDS_S = 20.0
"""For all pairs; beyond it the rest is left out, and said."""


@dataclass
class Reports:
    """What the nodes said: `answers` by question and node; `silent`: what a node was asked when it
    fell silent, and that in words.
    """

    names: list[str]
    answers: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    silent: dict[str, dict[str, str]] = field(default_factory=dict)
    pairs: dict[tuple[str, str], float | str] = field(default_factory=dict)
    """Bytes a second, or why there are none."""
    left_out: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    """Keys of the folders that the job writes."""

    def of(self, what: str) -> dict[str, dict[str, Any]]:
        """The answers to a question, without those that were none."""
        return {
            name: answer
            for name, answer in self.answers.get(what, {}).items()
            if "fault" not in answer
        }

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        pairs = [{"nodes": list(pair), "found": found} for pair, found in self.pairs.items()]
        return asdict(self) | {"pairs": pairs}


class Course:
    """One check, over a hub's nodes."""

    def __init__(
        self,
        hub: Hub,
        plan: Plan,
        words: Callable[[], dict[str, str]],
        ended: Callable[[], set[str]],
    ) -> None:
        """`words`: the last words of the probes, by node; `ended`: those known to have ended."""
        self.hub, self.plan, self.words, self.ended = hub, plan, words, ended
        self.reports = Reports(hub.names)
        self.scale, self.id = plan.seconds / SECONDS, secrets.token_hex(4)
        self.end = time.monotonic() + plan.seconds
        self.shards = plan.places.reads.get("shards", "")

    def run(self) -> Reports:
        """Everything that the plan names. Raises UserError where the training's keys are wrong."""
        here = self.hub.wait_for_all(self.seconds("hello"), self.ended)
        self.reports.answers["hello"] = here
        words = self.words()
        for name in self.hub.names:
            if name not in here:
                says = words.get(name) or self.late("hello")
                self.reports.silent[name] = {"asked": "hello", "says": says}
        if CLOCK in self.plan.parts:  # before anything is busy
            self.clock()
        if LINKS in self.plan.parts:
            self.ask("begin")
        parts = {
            VERSIONS: lambda: self.ask("versions"),
            MACHINE: lambda: self.ask("machine"),
            PLACES: self.places,
            REACH: self.reach,
            LINKS: self.links,
            LOADER: self.loader,
        }
        for part, look in parts.items():
            if part in self.plan.parts and not self.has_time():
                self.reports.left_out.append(f"{part}: the check's time was over")
            elif part in self.plan.parts:
                look()
        return self.reports

    def has_time(self) -> bool:
        return time.monotonic() < self.end - 1

    def seconds(self, what: str) -> float:
        """For a question, from now on."""
        return max(0.1, min(SHARES[what] * self.scale, self.end - time.monotonic()))

    def late(self, what: str) -> str:
        does = DOES.get(what)
        at = f"{what}; {does}" if does else what
        return f"no answer within {SHARES[what] * self.scale:.0f} s ({at})"

    def fall_silent(self, name: str, what: str) -> None:
        gone = name in self.hub.gone and f"its probe ended ({what}): {self.words().get(name, '?')}"
        self.reports.silent[name] = {"asked": what, "says": gone or self.late(what)}

    def living(self) -> list[str]:
        return [name for name in self.hub.names if name not in self.reports.silent]

    def ask(self, what: str, orders: dict[str, dict[str, Any]] | None = None) -> dict[str, dict]:
        """Asks the living nodes, or those of `orders`; who does not answer is silent from then
        on. The answers without faults.
        """
        told = {name: {} for name in self.living()} if orders is None else orders
        answers = self.hub.ask(what, told, self.seconds(what))
        self.reports.answers.setdefault(what, {}).update(answers)
        for name in told:
            if name not in answers:
                self.fall_silent(name, what)
        return {name: answer for name, answer in answers.items() if "fault" not in answer}

    def clock(self) -> None:
        """Each node's offset from this clock, from the quickest of some questions, and how far it
        may be off: half of that one's round trip.
        """
        best: dict[str, dict[str, Any]] = {}
        for _ in range(PINGS):
            for name, answer in self.ask("clock").items():
                asked, answered = self.hub.took[name]
                error = (answered - asked) / 2
                if name not in best or error < best[name]["error"]:
                    offset = answer["time"] - (asked + answered) / 2
                    best[name] = {"offset": offset, "error": error}
        self.reports.answers["clock"] = best

    def told_places(self) -> Places:
        """Those of the plan, or of the training's keys. Raises UserError where they are wrong."""
        if self.plan.keys is None or not self.living():
            return self.plan.places
        first = self.living()[0]
        answer = self.hub.ask("keys", {first: {"keys": list(self.plan.keys)}}, self.seconds("keys"))
        if first not in answer:
            self.fall_silent(first, "keys")
            return self.plan.places
        if fault := answer[first].get("fault"):
            raise UserError(fault)
        return Places(**answer[first])

    def places(self) -> None:
        """What each sees of the folders, then of the others' words in those that are written."""
        told = self.told_places()
        self.reports.written = list(told.writes)
        self.shards = told.reads.get("shards", "")
        order = {"reads": told.reads, "writes": told.writes, "check": self.id}
        seen = self.ask("places", dict.fromkeys(self.living(), order))
        self.ask("words", self.sights(seen, list(told.writes)))
        self.ask("remove")

    def sights(self, seen: dict[str, dict], keys: list[str]) -> dict[str, dict[str, Any]]:
        """Whose words each node looks for: those of the first node, and of the one after it."""
        orders: dict[str, dict[str, Any]] = {}
        for key in keys:
            left = [name for name in seen if seen[name].get(key, {}).get("word")]
            for place, name in enumerate(left):
                order = orders.setdefault(name, {"folders": {}, "words": {}, "check": self.id})
                order["folders"][key] = seen[name][key]["nearest"]
                others = {left[0], left[(place + 1) % len(left)]} - {name}
                order["words"][key] = {other: seen[other][key]["word"] for other in others}
        return orders

    def reach(self) -> None:
        """Opens doors on every node; each knocks at all the others'."""
        order = {"ports": sorted(self.plan.ports), "word": f"c2srt-{self.id}"}
        doors = self.ask("listen", dict.fromkeys(self.living(), order))
        if len(doors) > 1:
            known = {
                name: {"address": door["address"], "ports": [door["any"], *door["open"]]}
                for name, door in doors.items()
            }
            self.ask(
                "visit",
                {
                    name: {
                        "others": {other: known[other] for other in known if other != name},
                        "word": order["word"],
                    }
                    for name in known
                },
            )
        self.ask("doors", {name: {} for name in doors if name in self.living()})

    def links(self) -> None:
        """The group of all that can join it, an all-reduce, then pair after pair."""
        torch = self.ask("torch")
        if any(answer["failed"] for answer in self.reports.of("visit").values()):
            self.reports.left_out.append("links: not all nodes reach each other")
            return
        gpus = [name for name, answer in torch.items() if answer["gpus"]]
        group = gpus or list(torch)
        if len(group) < 2 or not self.join(group, bool(gpus)):
            return
        if len(self.ask("all_reduce", {name: {} for name in group})) == len(group):
            self.exchange(group)

    def join(self, group: list[str], gpus: bool) -> bool:
        """Whether all of them are in one group."""
        first = self.reports.answers["hello"][group[0]]["address"]
        host = self.ask("host", {group[0]: {}})
        if not host:
            return False
        common = {"size": len(group), "address": first, "gpus": gpus, **host[group[0]]}
        orders = {name: {"rank": rank, **common} for rank, name in enumerate(group)}
        return len(self.ask("join", orders)) == len(group)

    def exchange(self, group: list[str]) -> None:
        """Each pair of nodes, in rounds, until all had their turn or the time is over."""
        until = time.monotonic() + ROUNDS_S * self.scale
        games = rounds(len(group))
        for number, pairs in enumerate(games):
            if time.monotonic() > until or not self.has_time():
                self.reports.left_out.append(f"links: {len(games) - number} of {len(games)} rounds")
                return
            orders = {group[a]: {"partner": b} for a, b in pairs}
            orders |= {group[b]: {"partner": a} for a, b in pairs}
            found = self.ask("exchange", orders)
            for pair in ((group[a], group[b]) for a, b in pairs):
                rates = [found[name]["rate"] for name in pair if name in found]
                whole = len(rates) == 2
                self.reports.pairs[pair] = min(rates) if whole else "they do not exchange"
            if len(found) < len(orders):
                return  # what a rank that failed leaves of the group is of no use

    def loader(self) -> None:
        """Images a second of every node at once, as in a training."""
        names, shards = self.living(), self.shards
        if not shards or "://" in shards:
            self.reports.left_out.append("loader: no shards on a file system")
            return
        limit = self.seconds("loader") - 1
        common = {"shards": shards, "size": len(names), "seconds": LOADS_S * self.scale}
        self.ask(
            "loader",
            {name: {"rank": rank, "limit": limit, **common} for rank, name in enumerate(names)},
        )
