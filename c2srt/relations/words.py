"""Words outside the vocabulary at inference: text feature and neighbours are found once and kept.

`similarity` needs no network: the K seen categories of most similar text. `llm` asks a language
model as `c2srt relations mine` does, and takes the similar ones for a word that it leaves without
an answer. Either way the model needs no training.

    <cache>/words-<hash>.jsonl   {"word", "feature": base64 of float32 [D], "similar": [column…]}, a
                                 line a word
    <cache>/mined-<hash>.jsonl   the ledger (c2srt/relations/ledger.py) of the questions about words

The hashes cover what the lines depend on: vocabulary, text features, templates, K; model and
shortlist for the ledger. Where the folder cannot be written, words are kept for the life of the
process. Letters: C categories, S seen, K neighbours, D width.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from c2srt.bounds import Within
from c2srt.errors import UserError
from c2srt.files import hash_of
from c2srt.opened import misfit, parse_json, read_lines
from c2srt.relations.config import WordsConfig
from c2srt.relations.neighbours import ABSENT
from c2srt.vocabulary import Vocabulary

log = logging.getLogger(__name__)

FOLDER = "new-words"
NEARLY = 1e-3


@dataclass(frozen=True)
class Line:
    """What a kept word's line must have."""

    word: str
    feature: str
    similar: list[Annotated[int, Within(ge=ABSENT, le=2**31)]]


class NewWords:
    """Finds and keeps. `text` [C, D] are the vocabulary's features; `similar` gives those of words
    and their K most similar seen categories (`Exported.by_similarity`); `folder` is the cache.

    `find` is what `Exported.graph_for` takes.
    """

    def __init__(
        self,
        config: WordsConfig,
        vocabulary: Vocabulary,
        text: Tensor,
        k: int,
        templates: list[str],
        similar: Callable[[list[str]], tuple[Tensor, Tensor]],
        folder: Path,
    ) -> None:
        self.config, self.vocabulary, self.text, self.k, self.similar = (
            config,
            vocabulary,
            text.cpu().float(),
            k,
            similar,
        )
        self.templates, self.folder = templates, Path(config.cache) if config.cache else folder
        self._known: dict[str, tuple[Tensor, Tensor]] | None = None
        self._from_llm: dict[str, Tensor] = {}

    @cached_property
    def identity(self) -> str:
        """What the kept words depend on; only new words cost the digest of all features."""
        digest = hashlib.sha256(self.text.numpy().tobytes()).hexdigest()
        return hash_of([self.vocabulary.hash, digest, self.templates, self.k])

    @property
    def path(self) -> Path:
        return self.folder / f"words-{self.identity}.jsonl"

    def find(self, words: list[str]) -> tuple[Tensor, Tensor]:
        """Text features [n, D] and neighbours [n, K] (columns of seen categories, best first, −1
        absent). Raises UserError.
        """
        known = self.known()
        if missing := [word for word in words if word not in known]:
            text, table = self.similar(missing)
            known |= {word: (text[row], table[row]) for row, word in enumerate(missing)}
            self.keep(missing, known)
        features = torch.stack([known[word][0] for word in words])
        if self.config.neighbours == "llm":
            if missing := [word for word in words if word not in self._from_llm]:
                self._from_llm |= self.ask_llm(
                    missing, torch.stack([known[word][0] for word in missing])
                )
            return features, torch.stack(
                [self._from_llm.get(word, known[word][1]) for word in words]
            )
        return features, torch.stack([known[word][1] for word in words])

    def known(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The words kept so far; a line that a killed run left torn is passed over."""
        if self._known is None:
            self._known = {}
            with contextlib.suppress(UserError):
                for _, line in read_lines(self.path, ""):
                    if line.strip() and not misfit(line, Line):
                        self.take(parse_json(line))
        return self._known

    def take(self, row: dict) -> None:
        """A kept word, unless what was kept of it cannot be: its feature a unit vector, its
        neighbours seen categories.
        """
        with contextlib.suppress(ValueError):
            feature = torch.from_numpy(
                np.frombuffer(base64.b64decode(row["feature"]), np.float32).copy()
            )
            similar = torch.tensor(row["similar"], dtype=torch.long)
            unit = feature.shape == self.text.shape[1:] and abs(feature.norm().item() - 1) < NEARLY
            if (
                unit
                and len(similar) == self.k
                and bool(((similar >= ABSENT) & (similar < self.vocabulary.seen_count)).all())
            ):
                self.known()[row["word"]] = feature, similar

    def forget_beyond(self, count: int) -> None:
        """Forgets all words, in memory and in the cache, if there are more than `count`."""
        if len(self.known()) > count:
            self._known = {}
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def keep(self, words: list[str], known: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Appends words of `known` to the cache, if it can be written."""
        lines = []
        for word in words:
            feature, similar = known[word]
            encoded = base64.b64encode(feature.numpy().tobytes()).decode()
            lines.append(
                json.dumps({"word": word, "feature": encoded, "similar": similar.tolist()})
            )
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:  # the leading newline ends a torn line
                file.write(("\n" + "\n".join(lines) + "\n").encode(errors="backslashreplace"))

    def ask_llm(self, words: list[str], text: Tensor) -> dict[str, Tensor]:
        """Neighbours [K] of the words that a language model has an answer for. Raises UserError as
        `c2srt relations mine`.
        """
        from c2srt.relations.aggregate import averaged, collect
        from c2srt.relations.endpoint import model_name  # openai takes a second to import
        from c2srt.relations.ledger import Ledger
        from c2srt.relations.mine import ask, unanswered

        config = self.config.mining()
        questions = self.questions(words, text, model_name(config.model))
        path = self.folder / f"mined-{hash_of(questions.identity)}.jsonl"
        self.check_writable()
        with (
            Ledger(path, questions.identity) as ledger,
            contextlib.redirect_stdout(sys.stderr),
            ThreadPoolExecutor(1) as thread,
        ):
            if unanswered(questions, ledger):
                # in a thread of its own: a notebook's has an event loop already
                asked = thread.submit(lambda: asyncio.run(ask(config, questions, ledger)))
                dispatcher = asked.result()
                for note in dispatcher.notes():
                    log.info(note)
        found, answered, _ = collect(path, questions)
        if open_ := questions.count - len(answered):
            log.warning(
                f"{open_} questions about new words have no answer: text similarity stands in"
            )
        return {
            words[row - len(self.vocabulary)]: self.columns(averaged(answers))
            for row, answers in found.items()
        }

    def check_writable(self) -> None:
        """Raises UserError if the folder cannot be written: what was paid for must be kept."""
        there = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        if not os.access(there, os.W_OK):
            raise UserError(
                f"{self.folder} cannot be written, and what the language model answers must be"
                " kept: give words.cache=…"
            )

    def columns(self, related: list[tuple[int, str, float]]) -> Tensor:
        kept = [column for column, _, _ in related][: self.k]
        return torch.tensor(kept + [ABSENT] * (self.k - len(kept)), dtype=torch.long)

    def questions(self, words: list[str], text: Tensor, model: str):
        """Questions about words as further unseen categories; a word's question does not depend on
        the others asked with it.
        """
        from c2srt.relations.prompt import VERSION, make_labels
        from c2srt.relations.questions import Questions
        from c2srt.relations.shortlist import shortlists

        old, size = self.vocabulary, self.config.size
        vocabulary = Vocabulary(
            old.mids + tuple(f"word:{word}" for word in words),
            old.names + tuple(words),
            old.seen_count,
        )
        rows = list(range(len(old), len(vocabulary)))
        identity = {
            "vocabulary": old.hash,
            "model": model,
            "prompt": VERSION,
            "candidates": "shortlist",
            "size": size,
            "sources": {"similarity": self.identity, "words": ""},
        }
        lists = shortlists(
            vocabulary, rows, min(size, old.seen_count), torch.cat([self.text, text.cpu().float()])
        )
        pools = dict(zip(rows, lists, strict=True))
        return Questions(
            vocabulary, make_labels(vocabulary), rows, pools, size, self.config.queries, 0, identity
        )
