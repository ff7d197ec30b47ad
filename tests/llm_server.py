"""A chat endpoint on loopback that speaks the OpenAI protocol, answers from given relations, and
has faults on demand.
"""

import asyncio
import json
import math
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from c2srt.relations.answers import Answers
from c2srt.relations.prompt import TYPES, Labels, read_reply
from c2srt.vocabulary import Vocabulary

KEY = "sk-loopback-0123456789"
MODEL = "loopback-1"
TARGET = re.compile(r'direct relationship with the new category "(.*?)"\. For each', re.S)
LIST = re.compile(r"List of known categories, one a line:\n(.*)\n\nFocus on associations", re.S)
STRENGTHS = {3: "High", 2: "Medium", 1: "Low"}
Related = list[tuple[str, str, str]]


def relations_by_label(
    answers: Answers, vocabulary: Vocabulary, labels: Labels
) -> dict[str, Related]:
    """Label → (label, relation type, strength word) in the order of the answers."""
    shown = dict(zip(vocabulary.mids, labels.shown, strict=True))
    return {
        shown[mid]: [
            (shown[one.key], one.type, STRENGTHS[one.strength])
            for one in related
            if one.key in shown
        ]
        for mid, related in answers.related.items()
        if mid in shown
    }


@dataclass
class LlmServer:
    """Serves in a thread while used as a context manager. `fault(target, nth)` names what happens
    to the nth request (from 0) about a target: None, or a key of FAULTS. Without `structured` or
    `new_limit` it refuses requests with `response_format`, with `max_completion_tokens`.
    `reply(target, nth, related)` may change an answer. `served` lists what was asked. From `most`
    requests on it answers none, so that whoever wants to kill its client then is not too late.
    """

    related: dict[str, Related]
    fault: Callable[[str, int], str | None] = lambda target, nth: None
    reply: Callable[[str, int, Related], Related] = lambda target, nth, related: related
    delay_s: float = 0.0
    structured: bool = True
    new_limit: bool = True
    usage: bool = True
    served: list[tuple[str, str | None]] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    keep_prompts: bool = True
    tokens: Counter = field(default_factory=Counter)
    most_at_once: int = 0
    most: float = math.inf

    def __enter__(self) -> "LlmServer":
        self._loop, self._nth, self._now, started = (
            asyncio.new_event_loop(),
            Counter(),
            0,
            threading.Event(),
        )

        async def serve() -> None:
            self._server = await asyncio.start_server(
                self._connection, "127.0.0.1", 0, limit=1 << 24
            )
            started.set()

        def run() -> None:
            self._loop.create_task(serve())
            self._loop.run_forever()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert started.wait(10)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        async def stop() -> None:
            self._server.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            self._loop.stop()

        asyncio.run_coroutine_threadsafe(stop(), self._loop)
        self._thread.join(10)
        self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(
                    line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line
                )
                content = await reader.readexactly(int(fields.get("content-length", 0)))
                self._now += 1
                self.most_at_once = max(self.most_at_once, self._now)
                try:
                    alive = await self._answer(head, fields, content, writer)
                finally:
                    self._now -= 1
                if not alive:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(
        self, head: str, fields: dict, content: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        """Writes one response; False when the connection should close."""
        if not head.startswith("POST /v1/chat/completions "):
            return respond(writer, 404, b"<html>no such page</html>", "text/html")
        if fields.get("authorization") != f"bearer {KEY.lower()}":
            return error(
                writer,
                401,
                f"Incorrect API key provided: {fields.get('authorization')}",
                "invalid_api_key",
            )
        body = json.loads(content)
        if body["model"] != MODEL:
            return error(
                writer, 404, f"The model `{body['model']}` does not exist", "model_not_found"
            )
        if "response_format" in body and not self.structured:
            return error(writer, 400, "response_format json_schema is not supported", "unsupported")
        if "max_completion_tokens" in body and not self.new_limit:
            return error(
                writer,
                422,
                [{"type": "extra_forbidden", "loc": ["body", "max_completion_tokens"]}],
                None,
            )
        prompt = body["messages"][0]["content"]
        target, listed = TARGET.search(prompt)[1], set(LIST.search(prompt)[1].split("\n"))
        while len(self.served) >= self.most:
            await asyncio.sleep(0.01)
        nth = self._nth[target]
        self._nth[target] += 1
        fault = self.fault(target, nth)
        self.served.append((target, fault))
        if self.keep_prompts:
            self.prompts.append(prompt)
        await asyncio.sleep(self.delay_s)
        related = self.reply(
            target, nth, [one for one in self.related.get(target, []) if one[0] in listed]
        )
        text = as_json(related) if "response_format" in body else as_text(related)
        return await FAULTS[fault](self, writer, text, prompt)

    def completion(
        self, text: str | None, prompt: str, finish: str = "stop", refusal: str | None = None
    ) -> bytes:
        used = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(text or "") // 4}
        self.tokens.update(used)
        message = {"role": "assistant", "content": text, "refusal": refusal}
        body = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": f"{MODEL}-2026",
            "choices": [{"index": 0, "finish_reason": finish, "message": message}],
        }
        return json.dumps(body | ({"usage": used} if self.usage else {})).encode()


def as_json(related: Related) -> str:
    return json.dumps(
        {
            "related": [
                {
                    "category": label,
                    "type": TYPES[kind],
                    "strength": strength,
                    "explanation": "It is so.",
                }
                for label, kind, strength in related
            ]
        },
        ensure_ascii=False,
    )


def as_text(related: Related) -> str:
    blocks = [
        f"Related Category {number}: {label}\n- **Type of Relationship:** {TYPES[kind]}\n-"
        f" **Association Strength:** {strength}\n- **Explanation:** It is so."
        for number, (label, kind, strength) in enumerate(related, 1)
    ]
    return "\n\n".join(blocks) or "No related categories"


def respond(
    writer: asyncio.StreamWriter,
    status: int,
    body: bytes,
    kind: str = "application/json",
    extra: str = "",
) -> bool:
    writer.write(
        f"HTTP/1.1 {status} Status\r\ncontent-type: {kind}\r\ncontent-length:"
        f" {len(body)}\r\n{extra}\r\n".encode()
        + body
    )
    return True


def error(
    writer: asyncio.StreamWriter, status: int, message: object, code: str | None, extra: str = ""
) -> bool:
    body = json.dumps(
        {"error": {"message": message, "type": "error", "code": code, "param": None}}
    ).encode()
    return respond(writer, status, body, extra=extra)


async def good(server, writer, text, prompt):
    return respond(writer, 200, server.completion(text, prompt))


async def slow(server, writer, text, prompt):
    await asyncio.sleep(60)
    return respond(writer, 200, server.completion(text, prompt))


async def drop(server, writer, text, prompt):
    return False


async def half(server, writer, text, prompt):
    """The connection ends in the middle of the body."""
    body = server.completion(text, prompt)
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        % len(body)
        + body[: len(body) // 2]
    )
    return False


async def broken_body(server, writer, text, prompt):
    body = server.completion(text, prompt)
    return respond(writer, 200, body[: len(body) // 2])


def status(code: int, message: str, word: str, extra: str = ""):
    async def fault(server, writer, text, prompt):
        return error(writer, code, message, word, extra)

    return fault


def content(change: Callable[[str], str], finish: str = "stop"):
    async def fault(server, writer, text, prompt):
        return respond(writer, 200, server.completion(change(text), prompt, finish))

    return fault


def shaped(change: Callable[[dict, str], dict]):
    """A good completion in another shape: `change(body, text)`."""

    async def fault(server, writer, text, prompt):
        return respond(
            writer,
            200,
            json.dumps(change(json.loads(server.completion(text, prompt)), text)).encode(),
        )

    return fault


def with_content(body: dict, content: object) -> dict:
    body["choices"][0]["message"]["content"] = content
    return body


async def refusal(server, writer, text, prompt):
    return respond(writer, 200, server.completion(None, prompt, refusal="I cannot help with that."))


def invent(text: str) -> str:
    """Two categories that no list has, before the true ones."""
    made_up = [("Blorple", "is-a", "High"), ("Quux of old", "functional", "Low")]
    if text.startswith("{"):
        return json.dumps(
            {"related": json.loads(as_json(made_up))["related"] + json.loads(text)["related"]}
        )
    return as_text(made_up + read_reply(text))


FAULTS = {
    None: good,
    "slow": slow,
    "drop": drop,
    "half": half,
    "broken body": broken_body,
    "refusal": refusal,
    "429": status(429, "Rate limit reached", "rate_limit_exceeded"),
    "429 after": status(429, "Rate limit reached", "rate_limit_exceeded", "retry-after: 0.3\r\n"),
    "429 tomorrow": status(
        429, "Daily limit reached", "rate_limit_exceeded", "retry-after: 86400\r\n"
    ),
    "no credit": status(429, "You exceeded your current quota", "insufficient_quota"),
    "500": status(500, f"Internal error for key {KEY}", "server_error"),
    "too long": status(400, "maximum context length exceeded", "context_length_exceeded"),
    "filtered": status(400, "The response was filtered due to the prompt", "content_filter"),
    "odd": status(400, "I would rather not", "invalid_request_error"),
    "429 in 200": shaped(
        lambda body, text: {"choices": None, "error": {"message": "Slow down, please", "code": 429}}
    ),
    "words in 200": shaped(lambda body, text: {"error": "the model is still loading"}),
    "chunks": shaped(
        lambda body, text: with_content(
            body,
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "{"}]},
                *({"type": "text", "text": part} for part in (text[:9], text[9:])),
            ],
        )
    ),
    "usage as text": shaped(
        lambda body, text: (
            body | {"usage": {key: str(value) for key, value in body["usage"].items()}}
        )
    ),
    "prompt cut": shaped(
        lambda body, text: body | {"usage": {"prompt_tokens": 40, "completion_tokens": 9}}
    ),
    "number": shaped(lambda body, text: with_content(body, 5)),
    "whole but cut": content(lambda text: text, "length"),
    "thinks": content(lambda text: f"<think>Draft: {text[:-20]} … no.</think>\n{text}"),
    "thinks on": content(lambda text: f"<think>{text}", "length"),
    "cut": content(lambda text: text[: len(text) * 2 // 3], "length"),
    "prose": content(
        lambda text: (
            f"Of course! Here is the list:\n```json\n{text}\n```\nShall I go on?"
            if text.startswith("{")
            else f"Of course!\n\n{text}\n\nShall I go on?"
        )
    ),
    "invented": content(invent),
    "nonsense": content(lambda text: "I like turtles."),
    "echo": content(lambda text: f"Your key is {KEY}"),
}
