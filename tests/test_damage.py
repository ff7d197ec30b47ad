"""Damaged files of every reader, seeded: one sentence, or read as if whole; never a traceback, a
hang, a flood.

The counts are three: a few by default, 300 a reader in .ci/run (slow), 20,000 by hand (long), in a
process of its own each. `C2SRT_DAMAGE_SEED` is another seed than 0.
"""

import os

import pytest

from tests.damage import look
from tests.damaged_readers import READERS

SEED = int(os.environ.get("C2SRT_DAMAGE_SEED", 0))
FEW, SOME, MANY = 8, 300, 20_000
MADE_AGAIN = ("finished", "words")  # what is damaged there is made again without a word


def check(name: str, count: int) -> None:
    findings = look(name, SEED, count)
    assert not findings.wrong, "\n".join(
        [f"{len(findings.wrong)} of {findings.cases}", *findings.wrong[:20]]
    )
    assert findings.cases == count and (findings.accepted < count or name in MADE_AGAIN)


@pytest.mark.parametrize("name", READERS)
def test_a_few(name):
    check(name, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_some(name):
    check(name, SOME)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", READERS)
def test_many(name):
    check(name, MANY)
