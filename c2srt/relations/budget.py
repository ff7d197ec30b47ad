"""Money: what a request can cost at most, what a reply did cost, and a budget that no request may
pass.
"""

import asyncio
import json
from dataclasses import dataclass

from c2srt.relations.completion import Reply
from c2srt.relations.prompt import SCHEMA

MILLION = 1_000_000
OVERHEAD_TOKENS = 64 + len(
    json.dumps(SCHEMA)
)  # what chat templates and the answer's schema add to a prompt, at most


@dataclass(frozen=True)
class Prices:
    """USD for a million tokens, and the tokens that a reply may have."""

    input: float
    output: float
    max_output: int

    def bound(self, prompt: str) -> float:
        """The most that one request can cost: a token covers at least one byte of UTF-8, and
        `max_output` caps the reply.
        """
        return (
            (len(prompt.encode()) + OVERHEAD_TOKENS) * self.input + self.max_output * self.output
        ) / MILLION

    def cost(self, reply: Reply, bound: float) -> float:
        """What a reply cost; the bound where the endpoint does not tell."""
        if reply.input_tokens is None or reply.output_tokens is None:
            return bound
        return (reply.input_tokens * self.input + reply.output_tokens * self.output) / MILLION


class OutOfBudget(Exception):
    """The next request could cost more than what is left."""


class Budget:
    """A hard budget: a request reserves its bound before it is sent."""

    def __init__(self, budget: float, spent: float) -> None:
        self.budget, self.spent, self.reserved = budget, spent, 0.0
        self._changed = asyncio.Condition()

    async def reserve(self, bound: float) -> None:
        """Waits while requests under way might leave enough. Raises OutOfBudget."""
        async with self._changed:
            while self.spent + self.reserved + bound > self.budget:
                if self.reserved <= 0:
                    raise OutOfBudget
                await self._changed.wait()
            self.reserved += bound

    async def charge(self, bound: float, cost: float) -> None:
        async with self._changed:
            self.reserved = (
                max(0.0, self.reserved - bound) if self.reserved - bound > 1e-12 else 0.0
            )
            self.spent += cost
            self._changed.notify_all()
