"""SPARC: against a case worked by hand, against plain loops, and in blocks as at once."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from c2srt.errors import UserError
from c2srt.evaluation import compound
from c2srt.evaluation.compound import Texts, compound_prompts, sparc_scores, texts_of
from c2srt.evaluation.sparc import direction, fused, sparc


def test_scores_lose_their_image_s_and_their_prompt_s_mean_and_spread_by_hand():
    """Two categories without compound prompts: (a, b) of an image become ±1/√2 by which is the
    higher; then each category's own mean and spread over the images go.
    """
    own = np.array([[0.3, 0.1], [0.2, 0.8], [0.5, 0.9], [0.4, 0.2]])
    found = sparc(own, own, own[:, :0], [[], []])
    high = np.sqrt(3) / 2  # of ±1/√2, twice each: mean 0, spread √(4 · 1/2 / 3)
    expected = [[high, -high], [-high, high], [-high, high], [high, -high]]
    np.testing.assert_allclose(found, expected)


def test_ranks_are_weighted_by_the_direction_that_varies_most_by_hand():
    """Two ranks that rise together and own scores that do not move: the ranks get a half each.
    Which prompt has which rank differs between the images, and does not matter.
    """
    compound, own = np.array([[-1.0, -3], [0, 2], [1, -1], [-2, 0]]), np.zeros(4)
    ranked = np.array([[-3, -1, 0], [0, 2, 0], [-1, 1, 0], [-2, 0, 0]])
    np.testing.assert_allclose(direction(ranked), [0.5, 0.5, 0], atol=1e-12)
    np.testing.assert_allclose(fused(own, compound), [-2, 1, 0, -1])


def test_one_prompt_that_contradicts_its_category_leaves_the_own_score_its_sign():
    own = np.array([1.0, -1, 2, -2])
    np.testing.assert_allclose(fused(own, -own[:, None]), own)


def by_loops(own, plain, compound, prompts):
    """The same in the order of the paper, one number at a time."""

    def of_row(row, like):
        return [(value - np.mean(like)) / np.std(like, ddof=1) for value in row]

    def of_column(rows):
        means = [np.mean(column) for column in zip(*rows, strict=True)]
        spreads = [np.std(column, ddof=1) for column in zip(*rows, strict=True)]
        return [[(v - m) / s for v, m, s in zip(row, means, spreads, strict=True)] for row in rows]

    own = of_column([of_row(row, row) for row in own])
    compound = of_column([of_row(row, like) for row, like in zip(compound, plain, strict=True)])
    result = np.zeros((len(own), len(prompts)))
    for category, chosen in enumerate(prompts):
        rows = [
            [*sorted(scores[p] for p in chosen), row[category]]
            for scores, row in zip(compound, own, strict=True)
        ]
        centred = np.array(rows) - np.mean(rows, 0)
        first = np.linalg.svd(centred)[2][0]
        first = first * np.sign(sum(first)) / sum(abs(value) for value in first)
        for image, row in enumerate(rows):
            together = sum(value * weight for value, weight in zip(row, first, strict=True))
            result[image, category] = (together + row[-1]) / 2
    return result


def case(images=40, categories=6, prompts=9):
    random = np.random.default_rng(3)
    there = random.normal(size=(images, 4))
    own, plain, pairs = (
        there @ random.normal(size=(4, count)) + random.normal(size=(images, count))
        for count in (categories, categories, prompts)
    )
    return own, plain, pairs, [[0, 1, 2], [3, 4, 5], [], [6, 7], [], [8, 0, 4, 6]]


def test_it_does_what_the_paper_writes():
    np.testing.assert_allclose(sparc(*case()), by_loops(*case()), atol=1e-9)


def test_blocks_of_categories_and_images_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    images, own, plain, pairs = (
        normalize(torch.randn(count, 8, generator=generator), dim=-1) for count in (30, 5, 5, 7)
    )
    texts = Texts(own, plain, pairs, [[0, 1], [], [2, 3, 4], [5], [6]])
    whole = sparc((images @ own.T).numpy(), *each(images, plain, pairs), texts.prompts)
    monkeypatch.setattr(compound, "AT_ONCE", 35)
    assert len(list(compound.blocks(images, texts))) == 5
    np.testing.assert_allclose(sparc_scores(images, texts), whole, atol=1e-5)


def each(images, *texts):
    return [(images @ text.T).numpy() for text in texts]


def test_prompts_are_pairs_with_the_neighbours_that_are_there():
    table = np.array([[1, 2], [-1, -1], [-1, 0]])
    assert compound_prompts(["dog", "cat", "hot tub"], table) == (
        ["dog and cat", "dog and hot tub", "hot tub and dog"],
        [[0, 1], [], [2]],
    )


class Tower:
    """Texts by their length, as a text tower that counts letters."""

    class tower:
        width = 2

    def encode_texts(self, texts):
        return torch.tensor([[1.0, len(text)] for text in texts])


def test_names_and_pairs_are_embedded_without_a_template():
    texts = texts_of(Tower(), torch.eye(2), ["a", "bcd"], np.array([[1], [-1]]))
    expected = normalize(torch.tensor([[1.0, 1], [1, 3], [1, 9]]), dim=-1)  # "a and bcd"
    torch.testing.assert_close(torch.cat([texts.plain, texts.compound]), expected)
    assert texts.prompts == [[0], []]


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(UserError, match="1 images and 2 categories are too few"):
        sparc(np.ones((1, 2)), np.ones((1, 2)), np.ones((1, 0)), [[], []])
