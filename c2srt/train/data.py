"""The shards of a training and their categories, checked without torch."""

from pathlib import Path

from c2srt.hints import Command
from c2srt.shards import ShardIndex, load_index
from c2srt.train.config import Config
from c2srt.vocabulary import Vocabulary, check_same_vocabulary, load_vocabulary

TRAIN, VALIDATION = "train", "validation"


def load_data(config: Config) -> tuple[ShardIndex, Vocabulary]:
    """The index and the vocabulary. Raises UserError if one is absent, if they are not of each
    other, or if there is no training split.
    """
    shards = Path(config.shards)
    index, vocabulary = load_index(shards), load_vocabulary(shards)
    check_same_vocabulary(vocabulary, index.vocabulary, shards / "index.json", Command("shard"))
    index.split(TRAIN)
    return index, vocabulary
