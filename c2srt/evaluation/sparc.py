"""SPARC's scores (Miller et al., "SPARC: Score Prompting and Adaptive Fusion", CVPR 2025, and the
run_SPARC.py released with it), from cosines alone, without training or labels.

1. Each image's scores lose their mean and spread over the plain prompts, then each prompt's its own
   over the images: how bright an image or how common a word is says nothing of what is there.
2. A category's compound prompts ("{A} and {B}") are told apart by their rank in the image only.
3. These ranks and the category's own score are weighted by the direction in which they vary most
   together over the images (the first principal component), its weights' absolute values summing to
   1; half of that and half of the own score is the result.

It looks at all images at once: the scores of an image depend on which others are scored with it.

Letters: N images, C categories, P compound prompts, R of them of one category.
"""

from collections.abc import Sequence

import numpy as np

from c2srt.errors import UserError

Moments = tuple[np.ndarray, np.ndarray]
FUSED = 0.5
"""Share of the fused scores in the result; the rest is the category's own."""
ROUNDING = 1e-9
"""A mean weight below this is 0."""


def sparc(
    own: np.ndarray, plain: np.ndarray, compound: np.ndarray, prompts: Sequence[Sequence[int]]
) -> np.ndarray:
    """Scores float64 [N, C] from cosines: `own` [N, C] of the categories' text features (of all
    templates), `plain` [N, C] of their bare names, `compound` [N, P]; `prompts` are each category's
    columns of it. Raises UserError as `check_enough` does.
    """
    check_enough(*own.shape)
    return of_categories(own, moments(own), compound, moments(plain), prompts)


def of_categories(
    own: np.ndarray,
    of_own: Moments,
    compound: np.ndarray,
    of_plain: Moments,
    prompts: Sequence[Sequence[int]],
) -> np.ndarray:
    """As `sparc`, of some of the categories: their columns alone, and moments over all."""
    own = of_images(standard(own, *of_own))
    compound = of_images(standard(compound, *of_plain))
    columns = [
        FUSED * fused(own[:, column], compound[:, list(chosen)]) + (1 - FUSED) * own[:, column]
        for column, chosen in enumerate(prompts)
    ]
    return np.stack(columns, 1)


def check_enough(images: int, categories: int) -> None:
    """Raises UserError if there is nothing to compare with."""
    if min(images, categories) < 2:
        raise UserError(
            f"SPARC compares scores with those of other images and categories: {images:,} images"
            f" and {categories:,} categories are too few, it needs two of each"
        )


def moments(scores: np.ndarray) -> Moments:
    """Mean and spread (n − 1) of each image's scores [N, C]: float64 [N, 1] both."""
    scores = scores.astype(np.float64)
    return scores.mean(1, keepdims=True), scores.std(1, ddof=1, keepdims=True)


def standard(scores: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(scores − mean) / spread, float64; 0 where nothing varies."""
    centred = scores.astype(np.float64) - mean
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)


def of_images(scores: np.ndarray) -> np.ndarray:
    """Each column of scores [N, n] without its mean and spread (n − 1) over the images."""
    return standard(scores, scores.mean(0), scores.std(0, ddof=1))


def fused(own: np.ndarray, compound: np.ndarray) -> np.ndarray:
    """[N] of a category's own scores [N] and its compound prompts' [N, R], all standardised."""
    if not compound.shape[1]:
        return own
    ranked = np.concatenate([np.sort(compound, 1), own[:, None]], 1)
    return ranked @ direction(ranked)


def direction(ranked: np.ndarray) -> np.ndarray:
    """The first principal component [n] of ranked scores [N, n], the own ones last: absolute values
    sum to 1. Its sign makes the mean positive; where that is 0 but for rounding (one compound
    prompt that contradicts the own scores: the release's sign is chance there), the own weight.
    """
    _, vectors = np.linalg.eigh(np.cov(ranked, rowvar=False))
    first = vectors[:, -1] / np.abs(vectors[:, -1]).sum()
    side = first.mean() if abs(first.mean()) > ROUNDING else first[-1]
    return -first if side < 0 else first
