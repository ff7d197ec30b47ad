"""The list of categories that everything else is aligned to.

Categories are keyed by MID (Open Images' machine id, `/m/…` or `/g/…`), never by display name: 108
names of Open Images are shared by 221 MIDs, and two unseen names equal seen ones. Seen categories
come first, so the first `seen_count` columns of every score matrix are the ones that training uses.
A data set without MIDs (NUS-WIDE) has its names, each once, as keys.

On disk: `vocabulary.json` = {"mids": [C], "names": [C], "seen_count": S, "hash": "…"}.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from c2srt.errors import UserError
from c2srt.files import hash_of, write_json
from c2srt.hints import Command
from c2srt.opened import read_json
from c2srt.shown import shown

FILE = "vocabulary.json"


@dataclass(frozen=True)
class VocabularyFile:
    """What vocabulary.json must have."""

    mids: list[str]
    names: list[str]
    seen_count: int
    hash: str


@dataclass(frozen=True)
class Vocabulary:
    """C categories: `mids` and `names` in one order, the first `seen_count` of them seen, the rest
    unseen.
    """

    mids: tuple[str, ...]
    names: tuple[str, ...]
    seen_count: int

    def __post_init__(self) -> None:
        if len(self.mids) != len(self.names):
            raise UserError(
                f"the vocabulary has {len(self.mids)} MIDs but {len(self.names)} names: give one"
                " name a MID"
            )
        if len(self.index) != len(self.mids):
            twice = next(
                mid for position, mid in enumerate(self.mids) if self.index[mid] != position
            )
            raise UserError(
                f"category {shown(twice)} is in the vocabulary twice (as seen and unseen?): keep"
                " one of the two"
            )
        if not 0 <= self.seen_count <= len(self.mids):
            raise UserError(f"seen_count {self.seen_count} is outside 0…{len(self.mids)}")

    def __len__(self) -> int:
        return len(self.mids)

    @cached_property
    def index(self) -> dict[str, int]:
        """MID -> column."""
        return {mid: position for position, mid in enumerate(self.mids)}

    @cached_property
    def titles(self) -> tuple[str, ...]:
        """The names as they are shown: with the MID behind those that several categories share,
        "Spring (/m/01ty0n)".
        """
        shared = Counter(name.casefold() for name in self.names)
        return tuple(
            f"{name} ({mid})" if shared[name.casefold()] > 1 else name
            for name, mid in zip(self.names, self.mids, strict=True)
        )

    @cached_property
    def hash(self) -> str:
        """Changes when a MID, a name, the order or the split changes."""
        return hash_of([self.mids, self.names, self.seen_count])

    @property
    def unseen_count(self) -> int:
        return len(self.mids) - self.seen_count

    def save(self, folder: Path) -> None:
        """Writes `folder/vocabulary.json`."""
        write_json(
            folder / FILE,
            {
                "mids": self.mids,
                "names": self.names,
                "seen_count": self.seen_count,
                "hash": self.hash,
            },
        )


def open_images_v4() -> Vocabulary:
    """LESA's protocol, shipped with the project: the 7,186 trainable categories of Open Images V4,
    then 400 unseen ones.

    The two lists (`MID<tab>name` a line) are in the order of classes-trainable.txt and of LESA's
    top_400_unseen.csv.
    """
    folder = files("c2srt").joinpath("data_files")
    seen, unseen = (
        [
            line.split("\t")
            for line in folder.joinpath(name).read_text(encoding="utf-8").splitlines()
        ]
        for name in ("openimages_v4_seen_7186.tsv", "openimages_v4_unseen_400.tsv")
    )
    mids, names = zip(*seen, *unseen, strict=True)
    return Vocabulary(mids, names, len(seen))


def load_vocabulary(folder: Path) -> Vocabulary:
    """Reads `folder/vocabulary.json`. Raises UserError if it is absent, broken or was edited by
    hand.
    """
    content = read_json(folder / FILE, Command("shard"), VocabularyFile)
    vocabulary = Vocabulary(tuple(content["mids"]), tuple(content["names"]), content["seen_count"])
    if vocabulary.hash != content["hash"]:
        raise UserError(
            f"{folder / FILE} was changed since it was written (hash mismatch): "
            f"make it again with `{Command('shard')}`"
        )
    return vocabulary


def check_same_vocabulary(
    vocabulary: Vocabulary, other_hash: str, what: Path | str, rebuild: Command
) -> None:
    """Refuses an artefact made for another vocabulary, naming the command that rebuilds it."""
    if vocabulary.hash != other_hash:
        raise UserError(
            f"{what} was made for vocabulary {shown(other_hash)}, not {vocabulary.hash}: rebuild it"
            f" with `{rebuild}`"
        )
