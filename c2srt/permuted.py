"""Permutations that are the same on every machine and in every version, by name."""

import hashlib

import numpy as np


def permutation(n: int, *key: int | str) -> np.ndarray:
    """[n] a permutation that only depends on `key`: the sort order of n words of Philox, a
    counter-based generator.

    numpy promises the stream of a bit generator across versions, but not that of
    `Generator.permutation`.
    """
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
    words = np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(n)
    return np.argsort(words, kind="stable")
