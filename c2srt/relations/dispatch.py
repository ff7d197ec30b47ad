"""Sends all questions: many requests at once, within a budget, no faster than the endpoint allows,
every attempt in the ledger.
"""

import asyncio
import itertools
import logging
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from c2srt.errors import UserError
from c2srt.progress import Progress
from c2srt.relations.budget import Budget, OutOfBudget, Prices
from c2srt.relations.completion import Reply
from c2srt.relations.endpoint import (
    FORMAT,
    LIMIT,
    OLD_LIMIT,
    Endpoint,
    Refused,
    RequestError,
    Unsupported,
)
from c2srt.relations.ledger import Ledger, now
from c2srt.relations.prompt import SCHEMA
from c2srt.relations.questions import Question, Questions
from c2srt.relations.validation import PROMPT_CUT, reply_event, settle_event, taken_without
from c2srt.shown import shown

log = logging.getLogger(__name__)

LONGEST_BACKOFF_S = 60.0
FIRST_TRIES = 3  # of the very first request: a wrong address should not take minutes to say so
HOPELESS = 10  # questions given up, or prompts cut off, in a row
REFUSALS_SHOWN = 10


@dataclass
class Backoff:
    """Pauses: one request backs off after a fault, all of them after a rate limit."""

    backoff_s: float
    resume_at: float = 0.0
    limited_in_a_row: int = 0

    async def wait(self) -> None:
        while (left := self.resume_at - time.monotonic()) > 0:
            await asyncio.sleep(left)

    async def back_off(self, fault: RequestError, attempt: int) -> None:
        """Sleeps, or makes everybody sleep, before the next attempt.

        Rate limits of requests that were under way when a pause began belong to that pause: they do
        not double it.
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

    def reset(self) -> None:
        self.limited_in_a_row = 0


# No repr: asyncio prints a task's result when it restores the SIGINT handler, half a minute for
# these fields.
@dataclass(repr=False)
class Dispatcher:
    """Holds what the workers share. `form` is the answer form; with `may_fall_back` an endpoint
    that refuses `json` is asked for `text`. `limit` is the key that caps a reply. `attempts`
    replies a question, `tries` requests a reply. `counts` says what happened in this run, `refused`
    which prompts the endpoint would not take, `last_fault` what came last instead of a reply,
    `unread` why the last reply that could not be read was none.
    """

    questions: Questions
    ledger: Ledger
    endpoint: Endpoint
    prices: Prices
    budget: Budget
    backoff: Backoff
    form: str
    may_fall_back: bool
    temperature: float | None
    attempts: int
    tries: int
    progress: Progress
    limit: str = LIMIT
    counts: Counter = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    last_fault: str = ""
    unread: str = ""
    out_of_budget: bool = False
    given_up_in_a_row: int = 0
    cut_in_a_row: int = 0

    async def ask_all(self, at_once: int) -> None:
        """Asks every question without an answer; the first alone, so that a wrong address or key
        costs one request.
        """
        todo = (
            question for question in self.questions if question.id not in self.ledger.state.final
        )
        await self.work(itertools.islice(todo, 1), first=True)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(self.work(todo))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def work(self, todo: Iterator[Question], first: bool = False) -> None:
        """One of the workers: takes questions until there are none, or no money. Raises
        UserError.
        """
        for question in todo:
            if self.out_of_budget:
                return
            try:
                await self.answer(question, first)
            except OutOfBudget:  # what others have under way may still come in
                self.out_of_budget = True

    async def answer(self, question: Question, first: bool = False) -> None:
        """Asks until a reply is clean, or `attempts` replies were not; then the best of them is
        taken, if any can be read.
        """
        state, candidates = self.ledger.state, self.questions.candidates(question)
        if (
            question.id not in state.best and state.attempts.get(question.id, 0) >= self.attempts
        ):  # an earlier run gave up: start anew
            state.attempts.pop(question.id)
        while question.id not in state.final and state.attempts.get(question.id, 0) < self.attempts:
            try:
                reply, bound = await self.reply(question, candidates, first)
            except Refused as fault:
                self.refuse(question, fault)
                break
            if reply is None:
                self.give_up()
                break
            await self.record(question, candidates, reply, bound, first)
        if question.id in state.best and state.attempts.get(question.id, 0) >= self.attempts:
            self.settle(question)
        self.counts["questions without an answer"] += question.id not in state.final
        self.progress.update(1, f"{self.budget.spent:.2f} USD")

    def give_up(self) -> None:
        """Counts a question that only faults answered. Raises UserError when that becomes the
        rule.
        """
        self.counts["questions given up after faults"] += 1
        self.given_up_in_a_row += 1
        if self.given_up_in_a_row >= HOPELESS:
            raise UserError(
                f"{self.endpoint.url} does not answer any more ({HOPELESS} questions in a row,"
                f" {self.tries} tries each; last: {self.last_fault}): run the same command again"
                " when it does; nothing is lost"
            )

    def refuse(self, question: Question, fault: Refused) -> None:
        """Notes a prompt that the endpoint does not take. Raises UserError when it has never taken
        any.
        """
        self.counts["questions that the endpoint refuses"] += 1
        self.refused.append(f"{shown(self.questions.labels.shown[question.row])}: {fault}")
        self.given_up_in_a_row += not fault.content
        if self.given_up_in_a_row >= HOPELESS and not self.ledger.state.replies:
            raise UserError(
                f"{self.endpoint.url} refuses every request ({HOPELESS} in a row; last: {fault})"
            )

    def notes(self) -> list[str]:
        """Why questions stay open: the first refusals, the last fault, the last reply that was
        none.
        """
        notes = [f"refused: {words}" for words in self.refused[:REFUSALS_SHOWN]]
        if self.counts["questions given up after faults"]:
            notes.append(f"the last fault: {self.last_fault}")
        if self.unread and self.counts["questions without an answer"]:
            notes.append(f"the last reply that could not be read: {shown(self.unread, 200)}")
        return notes

    def settle(self, question: Question) -> None:
        """Takes the best of the replies that were not clean."""
        best = self.ledger.state.best[question.id]
        self.write(settle_event(question.id, best))
        self.counts[taken_without(best)] += 1

    async def reply(
        self, question: Question, candidates: np.ndarray, first: bool
    ) -> tuple[Reply | None, float]:
        """One reply, after as many tries as it takes; (None, 0) when `tries` faults came instead.
        Raises Refused, UserError.
        """
        attempt, doubtful = 1, False
        while attempt <= self.tries:
            await self.backoff.wait()
            form, limit = "text" if doubtful else self.form, self.limit
            prompt = self.questions.prompt(question, candidates, form)
            bound = self.prices.bound(prompt)
            await self.budget.reserve(bound)
            self.write(self.request_event(question, attempt, bound, form, prompt))
            body = chat_body(
                self.endpoint.model, prompt, form, self.temperature, self.prices.max_output, limit
            )
            try:
                reply = await self.endpoint.ask(body)
            except Unsupported as fault:
                await self.fault(question, attempt, RequestError(str(fault)), bound)
                doubtful = self.adapt(fault)
            except RequestError as fault:
                await self.fault(question, attempt, fault, bound)
                await self.before_next(fault, attempt, first)
                attempt += 1
            except (Refused, UserError) as error:
                await self.fault(question, attempt, RequestError(str(error)), bound)
                raise
            else:
                self.got_through(doubtful)
                return reply, bound
        return None, 0.0

    def request_event(
        self, question: Question, attempt: int, bound: float, form: str, prompt: str
    ) -> dict:
        """The ledger's line for a request."""
        return {
            "event": "ask",
            "id": question.id,
            "target": self.questions.vocabulary.mids[question.row],
            "query": question.query,
            "page": question.page,
            "attempt": attempt,
            "time": now(),
            "bound": bound,
            "form": form,
            "prompt": prompt,
        }

    async def before_next(self, fault: RequestError, attempt: int, first: bool) -> None:
        """Pauses, if there is a next attempt. Raises UserError where the very first request comes
        to nothing.
        """
        self.counts["faults on the way (429, 5xx, connection)"] += 1
        if first and not fault.limited and attempt == min(self.tries, FIRST_TRIES):
            hint = "" if fault.told else "; check url=… (or OPENAI_BASE_URL)"
            raise UserError(f"{self.endpoint.url} gives no usable reply: {fault}{hint}") from fault
        if attempt < self.tries:
            await self.backoff.back_off(fault, attempt)

    def got_through(self, doubtful: bool) -> None:
        """A reply came; to a `doubtful` question in the other form: it was the form."""
        if doubtful:
            self.fall_back("structured output")
        self.backoff.reset()
        self.given_up_in_a_row = 0

    def adapt(self, fault: Unsupported) -> bool:
        """Leaves out what the endpoint does not know; True where it may be this one prompt that it
        refuses, so that only this question is tried in the other form. Raises Refused, UserError.
        """
        if fault.key == LIMIT:
            if self.limit == LIMIT:
                log.info(
                    f"{self.endpoint.url} does not know {LIMIT} ({fault}): asking with {OLD_LIMIT}"
                )
            self.limit = OLD_LIMIT
            return False
        if not fault.sure:
            if not self.may_fall_back:
                raise Refused(str(fault)) from fault
            return True
        if not self.may_fall_back:
            raise UserError(
                f"{self.endpoint.url} refuses structured output ({fault}): set form=text"
            ) from fault
        self.fall_back(f"structured output ({fault})")
        return False

    def fall_back(self, what: str) -> None:
        """From now on all questions are asked in the text form."""
        if self.form != "text":
            log.info(f"{self.endpoint.url} refuses {what}: asking in the text form")
        self.form = "text"

    async def fault(
        self, question: Question, attempt: int, fault: RequestError, bound: float
    ) -> None:
        self.last_fault = str(fault)
        self.write(
            {
                "event": "fault",
                "id": question.id,
                "attempt": attempt,
                "time": now(),
                "reason": str(fault),
                "billed": fault.billed,
            }
        )
        await self.budget.charge(bound, bound if fault.billed else 0.0)

    async def record(
        self, question: Question, candidates: np.ndarray, reply: Reply, bound: float, first: bool
    ) -> None:
        """Reads one reply and writes it down, clean or not. Raises UserError if the endpoint cuts
        prompts off.
        """
        cost = self.prices.cost(reply, bound)
        event = reply_event(
            question,
            candidates,
            reply,
            self.questions,
            cost,
            self.ledger.state.attempts.get(question.id, 0) + 1,
        )
        event["endpoint"] = self.endpoint.url
        self.write(event)
        self.counts[f"replies: {event['verdict']}"] += 1
        self.counts["unusable names"] += len(event["unusable"])
        self.unread = event.get("reason", self.unread)
        await self.budget.charge(bound, cost)
        self.cut_in_a_row = self.cut_in_a_row + 1 if event["verdict"] == PROMPT_CUT else 0
        if self.cut_in_a_row >= (1 if first else HOPELESS):
            raise UserError(
                f"{self.endpoint.url} cuts prompts off ({event['reason']}): give the server a"
                " longer context (num_ctx of Ollama, --max-model-len of vLLM, -c of llama.cpp), or"
                " ask about fewer categories at once with size=…"
            )

    def write(self, event: dict) -> None:
        """Without the key: a reply may hold it in escapes of its own, which only reading it
        undoes.
        """
        event = self.endpoint.masked(event)
        self.ledger.append(event)
        self.ledger.state.take(event)


def chat_body(
    model: str,
    prompt: str,
    form: str,
    temperature: float | None,
    max_output: int,
    limit: str = LIMIT,
) -> dict:
    """The JSON of one chat request."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], limit: max_output}
    if form == "json":
        body[FORMAT] = SCHEMA
    if temperature is not None:
        body["temperature"] = temperature
    return body
