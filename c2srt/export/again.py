"""A trained model that is written again with something more (`c2srt tune`, `messages`,
`calibrate`): whether that is done already, and the model that it starts from.
"""

import logging
from pathlib import Path

from c2srt.artefact import is_marked
from c2srt.errors import UserError
from c2srt.export.files import CONFIG_FILE, is_export, is_only_export
from c2srt.export.read import Exported, load_export
from c2srt.files import check_replaceable
from c2srt.hints import Command
from c2srt.shards import ShardIndex
from c2srt.vocabulary import Vocabulary, check_same_vocabulary

log = logging.getLogger(__name__)


def is_made(source: Path, model: Path, key: str, made_by: Command, part: str) -> bool:
    """Whether `model` is the export in `source` with what `made_by` adds, of this key, which its
    record notes as `part`; says so. Raises UserError if it may not be written there.
    """
    if source.resolve() == model.resolve():
        raise UserError(
            f"out={model.parent} is where the checkpoint itself lies: choose another folder"
        )
    made = model / CONFIG_FILE
    if is_export(model) and is_marked(made, key, made_by, "made_from", part):
        log.info(f"{model} is up to date")
        return True
    check_replaceable(model, is_only_export)
    return False


def load_for(source: Path, index: ShardIndex, vocabulary: Vocabulary) -> Exported:
    """The export. Raises UserError unless the shards, their vocabulary and it belong together."""
    exported = load_export(source)
    check_same_vocabulary(vocabulary, exported.vocabulary.hash, source, Command("train"))
    check_same_vocabulary(
        vocabulary, index.vocabulary, index.folder / "index.json", Command("shard")
    )
    return exported
