"""Tokenizers: CLIP's own, which comes with open_clip, and those of the Hugging Face hub, which lie
in the hub's cache, in a folder, or in an export. Nothing is downloaded here.

Shapes: n texts, L tokens.
"""

import hashlib
import json
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from c2srt.backbone import library
from c2srt.errors import UserError
from c2srt.opened import reason

OWN = 49408  # tokens of CLIP's own byte-pair tokenizer
TAKEN = ("clean", "strip_sep_token")
"""What text_cfg.tokenizer_kwargs may hold: how a text is cleaned, and whether the end is masked."""
ADVICE = "take an open_clip ViT with CLIP's own, such as ViT-B-16"


class Tokenizer(Protocol):
    """What a text tower reads. `hash` is None for CLIP's own tokenizer, whose name decides it."""

    size: int
    """Number of different tokens."""
    hash: str | None

    def __call__(self, texts: list[str], length: int) -> Tensor:
        """Texts -> token ids [n, length], padded; longer ones are cut, as the model was trained."""

    def count(self, texts: list[str]) -> list[int]:
        """Tokens of each text, start and end among them, if nothing were cut."""

    def save(self, folder: Path) -> None:
        """Writes what `hub_tokenizer` can read again; nothing for CLIP's own."""


class OwnTokenizer:
    """CLIP's byte-pair tokenizer; 0 stands behind the end."""

    size: int = OWN
    hash: str | None = None

    @cached_property
    def encode(self) -> Any:
        """Building it takes a quarter of a second, which who asks for no text need not pay."""
        return library.own_tokenizer()

    def __call__(self, texts: list[str], length: int) -> Tensor:
        return self.encode(texts, context_length=length)

    def count(self, texts: list[str]) -> list[int]:
        return [len(self.encode.encode(text)) + 2 for text in texts]

    def save(self, folder: Path) -> None:
        pass


class HubTokenizer:
    """A tokenizer of the hub, called as open_clip calls it."""

    def __init__(self, encode: Any) -> None:
        self.encode, inner = encode, encode.tokenizer
        self.size = len(inner)
        rules = json.loads(inner.backend_tokenizer.to_str())
        rules |= {"padding": None, "truncation": None}  # set by every call
        marks = [inner.pad_token_id, inner.eos_token_id, inner.sep_token_id, inner.padding_side]
        described = [rules, marks, encode.clean_fn.__name__, encode.strip_sep_token]
        text = json.dumps(described, sort_keys=True)
        self.hash: str | None = hashlib.sha256(text.encode()).hexdigest()[:16]

    def __call__(self, texts: list[str], length: int) -> Tensor:
        return self.encode(texts, context_length=length)

    def count(self, texts: list[str]) -> list[int]:
        cleaned = [self.encode.clean_fn(text) for text in texts]
        return [len(ids) for ids in self.encode.tokenizer(cleaned).input_ids]

    def save(self, folder: Path) -> None:
        self.encode.save_pretrained(folder)


@cache
def own_tokenizer() -> OwnTokenizer:
    """One for the whole process."""
    return OwnTokenizer()


def hub_tokenizer(name: str, text: dict) -> HubTokenizer:
    """The tokenizer `name` (of the hub's cache, or a folder) for a text_cfg. Raises UserError if it
    is not there or cannot be read.
    """
    lacking = f"this CLIP's text tower needs another tokenizer ({name})"
    try:
        return HubTokenizer(library.hub_tokenizer(name, text))
    except ImportError as error:
        from c2srt.extras import install  # for a sentence

        raise UserError(
            f"{lacking}, which the library {error.name or 'transformers'} reads:"
            f" `{install('hub')}`, or {ADVICE}"
        ) from error
    except OSError as error:
        raise UserError(
            f"{lacking}, which is not in the hub's cache here: get it with `hf download {name}`, or"
            f" {ADVICE}"
        ) from error
    except Exception as error:  # whatever strange files lead to, in a library of many
        raise UserError(
            f"{lacking}, whose files cannot be read ({type(error).__name__}: {reason(error)}): get"
            f" them again with `hf download {name}`, or {ADVICE}"
        ) from error


def tokenizer_of(model_config: dict, folder: Path | None = None) -> Tokenizer:
    """The tokenizer that a model config names; an export brings the hub's in `folder`. Raises
    UserError if it is not there, or the text tower does not know all of its tokens.
    """
    text = model_config["text_cfg"]
    name, extra = text.get("hf_tokenizer_name"), text.get("tokenizer_kwargs") or {}
    if unknown := sorted(set(extra) - set(TAKEN)) or (extra and not name):
        raise UserError(
            f"this CLIP's text tower needs another tokenizer (tokenizer_kwargs {unknown or extra}):"
            f" {ADVICE}"
        )
    found: Tokenizer = hub_tokenizer(str(folder or name), text) if name else own_tokenizer()
    check_size(text, found.size)
    return found


def check_size(text: dict, size: int) -> None:
    """Raises UserError if a text tower knows fewer tokens than its tokenizer makes."""
    known = text.get("hf_config", text).get("vocab_size", OWN)
    if isinstance(known, int) and known < size:
        raise UserError(
            f"this CLIP's text tower knows {known:,} tokens, its tokenizer has {size:,}: take an"
            " open_clip ViT, such as ViT-B-16"
        )
