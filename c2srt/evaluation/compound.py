"""What SPARC (sparc.py) is given: compound prompts of each category with its neighbours in the
relation graph, in the release's form for pairs, and CLIP's cosines with them.

The release pairs categories that come together in training labels; here the graph says which do.

Letters: N images, C categories, K neighbours, P compound prompts, D joint width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from c2srt.backbone.ensemble import embed
from c2srt.evaluation.sparc import Moments, check_enough, moments, of_categories
from c2srt.relations.neighbours import ABSENT

PAIR = "{} and {}"
BARE = ["{}"]
"""Plain and compound prompts stand alone, in no template."""
AT_ONCE = 1 << 24
"""Scores held at a time (128 MiB in float64), some copies of them beside."""


@dataclass(frozen=True)
class Texts:
    """L2-normalised features: `own` [C, D] of all templates, `plain` [C, D] of the bare names,
    `compound` [P, D]; `prompts`: each category's rows of it.
    """

    own: Tensor
    plain: Tensor
    compound: Tensor
    prompts: list[list[int]]


def compound_prompts(names: list[str], table: np.ndarray) -> tuple[list[str], list[list[int]]]:
    """The prompts of all categories one after the other, and the places of each one's; table
    [C, K].
    """
    texts: list[str] = []
    prompts = []
    for name, neighbours in zip(names, table.tolist(), strict=True):
        pairs = [PAIR.format(name, names[other]) for other in neighbours if other != ABSENT]
        prompts.append(list(range(len(texts), len(texts) + len(pairs))))
        texts += pairs
    return texts, prompts


def texts_of(clip: Any, own: Tensor, names: list[str], table: np.ndarray) -> Texts:
    """Embeds the bare names and the compound prompts with the text tower of a CLIP."""
    texts, prompts = compound_prompts(names, table)
    plain = embed(clip, names, BARE)
    compound = embed(clip, texts, BARE) if texts else plain[:0]
    return Texts(own, plain, compound, prompts)


def blocks(images: Tensor, texts: Texts) -> Iterator[tuple[slice, np.ndarray]]:
    """SPARC's scores of image features [N, D]: categories, and their scores float32 [N, n]. Raises
    UserError as `check_enough` does.
    """
    check_enough(len(images), len(texts.own))
    of_own, of_plain = (moments_of(images, part) for part in (texts.own, texts.plain))
    most = max(map(len, texts.prompts))
    size = max(1, AT_ONCE // (len(images) * (1 + most)))
    for start in range(0, len(texts.own), size):
        chosen = slice(start, start + size)
        own = images @ texts.own[chosen].T
        rows = [row for prompts in texts.prompts[chosen] for row in prompts]
        compound = images @ texts.compound[rows].T
        first = rows[0] if rows else 0
        local = [[row - first for row in prompts] for prompts in texts.prompts[chosen]]
        scores = of_categories(own.numpy(), of_own, compound.numpy(), of_plain, local)
        yield chosen, scores.astype(np.float32)


def moments_of(images: Tensor, text: Tensor) -> Moments:
    """`moments` of cosines of image features [N, D] with text features [C, D], some images at a
    time.
    """
    found = [moments((some @ text.T).numpy()) for some in images.split(AT_ONCE // len(text))]
    mean, spread = zip(*found, strict=True)
    return np.concatenate(mean), np.concatenate(spread)


def sparc_scores(images: Tensor, texts: Texts) -> np.ndarray:
    """All of `blocks`: float32 [N, C]."""
    return np.concatenate([scores for _, scores in blocks(images, texts)], 1)
