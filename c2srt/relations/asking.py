"""Asking all questions: many at once, within a budget, at the pace that the endpoint allows, every attempt in the ledger."""

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from c2srt.errors import UserError
from c2srt.progress import Progress
from c2srt.relations.answers import STRENGTH
from c2srt.relations.endpoint import Again, Endpoint, Reply, Unsupported
from c2srt.relations.ledger import Ledger, now
from c2srt.relations.prompt import SCHEMA, Unparsable, normalised, read_reply
from c2srt.relations.questions import Question, Questions

MILLION = 1_000_000
LONGEST_BACKOFF_S = 60.0
FIRST_TRIES = 3  # of the very first request: a wrong address should not take minutes to say so
HOPELESS = 10  # questions given up in a row
OVERHEAD_TOKENS = 64 + len(json.dumps(SCHEMA))  # what chat templates and the answer's schema add to a prompt, at most


@dataclass(frozen=True)
class Prices:
    """USD for a million tokens, and the tokens that a reply may have."""

    input: float
    output: float
    max_output: int

    def bound(self, prompt: str) -> float:
        """The most that one request can cost: a token covers at least one byte of UTF-8, and `max_output` caps the reply."""
        return ((len(prompt.encode()) + OVERHEAD_TOKENS) * self.input + self.max_output * self.output) / MILLION

    def cost(self, reply: Reply, bound: float) -> float:
        """What a reply cost; the bound where the endpoint does not tell."""
        if reply.input_tokens is None or reply.output_tokens is None:
            return bound
        return (reply.input_tokens * self.input + reply.output_tokens * self.output) / MILLION


class OutOfBudget(Exception):
    """The next request could cost more than what is left."""


class Purse:
    """A hard budget: a request sets its bound aside before it is sent."""

    def __init__(self, budget: float, spent: float) -> None:
        self.budget, self.spent, self.aside = budget, spent, 0.0
        self._changed = asyncio.Condition()

    async def set_aside(self, bound: float) -> None:
        """Waits while requests under way might leave enough. Raises OutOfBudget."""
        async with self._changed:
            while self.spent + self.aside + bound > self.budget:
                if self.aside <= 0:
                    raise OutOfBudget
                await self._changed.wait()
            self.aside += bound

    async def settle(self, bound: float, cost: float) -> None:
        async with self._changed:
            self.aside = max(0.0, self.aside - bound) if self.aside - bound > 1e-12 else 0.0
            self.spent += cost
            self._changed.notify_all()


@dataclass
class Pace:
    """Pauses: one request backs off after a fault, all of them after a rate limit."""

    backoff_s: float
    resume_at: float = 0.0
    limited_in_a_row: int = 0

    async def wait(self) -> None:
        while (left := self.resume_at - time.monotonic()) > 0:
            await asyncio.sleep(left)

    async def after(self, fault: Again, attempt: int) -> None:
        """Sleeps, or makes everybody sleep, before the next attempt.

        Rate limits of requests that were under way when a pause began belong to that pause: they do not double it.
        """
        if fault.limited and fault.wait is None and time.monotonic() < self.resume_at:
            return
        self.limited_in_a_row += fault.limited
        turn = self.limited_in_a_row if fault.limited else attempt
        pause = min(self.backoff_s * 2 ** (turn - 1), LONGEST_BACKOFF_S) * random.uniform(0.5, 1.0)
        pause = fault.wait if fault.wait is not None else pause
        if fault.limited:
            self.resume_at = max(self.resume_at, time.monotonic() + pause)
        else:
            await asyncio.sleep(pause)

    def good(self) -> None:
        self.limited_in_a_row = 0


@dataclass(repr=False)  # asyncio prints a task's result when it restores the SIGINT handler: half a minute for these fields
class Asker:
    """Holds what the workers share. `form` is the answer form; with `may_fall_back` an endpoint that refuses `json` is asked for
    `text`. `attempts` replies a question, `tries` requests a reply. `counts` says what happened in this run."""

    questions: Questions
    ledger: Ledger
    endpoint: Endpoint
    prices: Prices
    purse: Purse
    pace: Pace
    form: str
    may_fall_back: bool
    temperature: float | None
    attempts: int
    tries: int
    progress: Progress
    counts: Counter = field(default_factory=Counter)
    out_of_budget: bool = False
    given_up_in_a_row: int = 0

    async def ask_all(self, at_once: int) -> None:
        """Asks every question without an answer; the first alone, so that a wrong address or key costs one request."""
        todo = (asked for asked in self.questions if asked.id not in self.ledger.state.final)
        await self.work(itertools.islice(todo, 1), first=True)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(self.work(todo))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def work(self, todo: Iterator[Question], first: bool = False) -> None:
        """One of the workers: takes questions until there are none, or no money. Raises UserError."""
        for asked in todo:
            if self.out_of_budget:
                return
            try:
                await self.answer(asked, first)
            except OutOfBudget:  # what others have under way may still come in
                self.out_of_budget = True

    async def answer(self, asked: Question, first: bool = False) -> None:
        """Asks until a reply is clean, or `attempts` replies were not; then the best of them is taken, if any can be read."""
        state, candidates = self.ledger.state, self.questions.candidates(asked)
        if asked.id not in state.best and state.attempts.get(asked.id, 0) >= self.attempts:  # an earlier run gave up: start anew
            state.attempts.pop(asked.id)
        while asked.id not in state.final and state.attempts.get(asked.id, 0) < self.attempts:
            reply, bound = await self.reply(asked, candidates, first)
            if reply is None:
                self.give_up()
                break
            await self.record(asked, candidates, reply, bound)
        if asked.id in state.best and state.attempts.get(asked.id, 0) >= self.attempts:
            self.settle(asked)
        self.counts["questions without an answer"] += asked.id not in state.final
        self.progress.update(1, f"{self.purse.spent:.2f} USD")

    def give_up(self) -> None:
        """Counts a question that only faults answered. Raises UserError when that becomes the rule."""
        self.counts["questions given up after faults"] += 1
        self.given_up_in_a_row += 1
        if self.given_up_in_a_row >= HOPELESS:
            raise UserError(f"{self.endpoint.url} does not answer any more ({HOPELESS} questions in a row, {self.tries} tries "
                            "each): run the same command again when it does; nothing is lost")

    def settle(self, asked: Question) -> None:
        """Takes the best of the replies that were not clean."""
        best = self.ledger.state.best[asked.id]
        self.write(settle_event(asked.id, best))
        self.counts["answers taken without their unusable names"] += 1

    async def reply(self, asked: Question, candidates: np.ndarray, first: bool) -> tuple[Reply | None, float]:
        """One reply, after as many tries as it takes; (None, 0) when `tries` faults came instead."""
        for attempt in range(1, self.tries + 1):
            await self.pace.wait()
            prompt = self.questions.prompt(asked, candidates, self.form)
            bound = self.prices.bound(prompt)
            await self.purse.set_aside(bound)
            self.write({"event": "ask", "id": asked.id, "target": self.questions.vocabulary.mids[asked.row], "query": asked.query,
                        "page": asked.page, "attempt": attempt, "time": now(), "bound": bound, "form": self.form,
                        "prompt": prompt})
            body = chat_body(self.endpoint.model, prompt, self.form, self.temperature, self.prices.max_output)
            try:
                reply = await self.endpoint.ask(body)
                self.pace.good()
                self.given_up_in_a_row = 0
                return reply, bound
            except Unsupported as fault:
                await self.fault(asked, attempt, Again(str(fault)), bound)
                if not self.may_fall_back:
                    raise UserError(f"{self.endpoint.url} refuses structured output ({fault}): set form=text") from fault
                self.form = "text"
            except Again as fault:
                await self.fault(asked, attempt, fault, bound)
                if first and not fault.limited and attempt == min(self.tries, FIRST_TRIES):
                    raise UserError(f"{self.endpoint.url} gives no usable reply: {fault}; check url=… (or "
                                    "OPENAI_BASE_URL)") from fault
                if attempt < self.tries:
                    await self.pace.after(fault, attempt)
            except UserError as error:
                await self.fault(asked, attempt, Again(str(error)), bound)
                raise
        return None, 0.0

    async def fault(self, asked: Question, attempt: int, fault: Again, bound: float) -> None:
        self.write({"event": "fault", "id": asked.id, "attempt": attempt, "time": now(), "reason": str(fault),
                    "billed": fault.billed})
        await self.purse.settle(bound, bound if fault.billed else 0.0)
        self.counts["faults on the way (429, 5xx, connection)"] += 1

    async def record(self, asked: Question, candidates: np.ndarray, reply: Reply, bound: float) -> None:
        """Reads one reply and writes it down, clean or not."""
        cost = self.prices.cost(reply, bound)
        event = reply_event(asked, candidates, reply, self.questions, cost, self.ledger.state.attempts.get(asked.id, 0) + 1)
        event["endpoint"] = self.endpoint.url
        self.write(event)
        self.counts[f"replies: {event['verdict']}"] += 1
        self.counts["unusable names"] += len(event["unusable"])
        await self.purse.settle(bound, cost)

    def write(self, event: dict) -> None:
        self.ledger.append(event)
        self.ledger.state.take(event)


def settle_event(key: str, best: dict) -> dict:
    """The ledger's line that takes an earlier reply as the answer."""
    return {"event": "settle", "id": key, "time": now(), "final": True, "related": best["related"]}


def chat_body(model: str, prompt: str, form: str, temperature: float | None, max_output: int) -> dict:
    """The JSON of one chat request."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_completion_tokens": max_output}
    if form == "json":
        body["response_format"] = SCHEMA
    if temperature is not None:
        body["temperature"] = temperature
    return body


def reply_event(asked: Question, candidates: np.ndarray, reply: Reply, questions: Questions, cost: float, attempt: int) -> dict:
    """The ledger's line for a reply. Verdicts: ok, invented (unusable names beside the others), refused, cut off, unparsable."""
    event = {"event": "reply", "id": asked.id, "attempt": attempt, "time": now(), "model": reply.model, "finish": reply.finish,
             "tokens": [reply.input_tokens, reply.output_tokens], "cost": cost, "text": reply.refusal or reply.text,
             "related": None, "unusable": []}
    try:
        if reply.refusal:
            event["verdict"] = "refused"
        else:
            event["related"], event["unusable"] = resolve(read_reply(reply.text), asked, candidates, questions)
            event["verdict"] = "invented" if event["unusable"] else "ok"
    except Unparsable as error:
        event |= {"verdict": "cut off" if reply.finish == "length" else "unparsable", "reason": str(error)}
    return event | {"final": event["verdict"] == "ok"}


def resolve(named: list[tuple[str, str, str]], asked: Question, candidates: np.ndarray,
            questions: Questions) -> tuple[list[list], list[str]]:
    """[column, type, strength 1–3] of the names that the prompt listed, each once, in order; and the names that it did not list.

    The target itself and repeated names are left out without complaint: they are redundant, not wrong.
    """
    shown = set(candidates.tolist())
    related: dict[int, list] = {}
    unusable = []
    for label, kind, strength in named:
        column = questions.labels.column.get(normalised(label))
        if column == asked.row:
            continue
        if column is None or column not in shown:
            unusable.append(label)
        elif column not in related:
            related[column] = [column, kind, STRENGTH[strength]]
    return list(related.values()), unusable
