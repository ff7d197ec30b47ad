"""What the figures are made from, each loaded once and only when a figure needs it."""

from functools import cached_property
from pathlib import Path

import torch

from c2srt.backbone.clip import load_clip
from c2srt.errors import UserError
from c2srt.export.files import identity, is_export
from c2srt.export.read import Exported, load_export
from c2srt.figures.config import Config
from c2srt.figures.photos import Photos
from c2srt.figures.viewers import ClipViewer, MktViewer, OurViewer, Viewer
from c2srt.hints import Command
from c2srt.model.kinds import DRAWN
from c2srt.relations.questions import find_rows
from c2srt.shards import FILE as INDEX, ShardIndex, load_index
from c2srt.text import load_text, templates_of, text_identity
from c2srt.vocabulary import Vocabulary, check_same_vocabulary, load_vocabulary

AUTO, USUAL_MKT = "auto", "mkt/seed-0/model"


class Missing(UserError):
    """An input is not there (yet): the sentence names the command that makes it."""


def need(path: Path, command: Command | str) -> Path:
    """The path itself. Raises Missing if nothing is there."""
    if not path.exists():
        raise Missing(f"{path} does not exist: make it with `{command}`")
    return path


class Inputs:
    """Shards, models and settings of one call. Raises Missing or UserError at the first use of what
    is absent or wrong.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.work = config, Path(config.work)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def index(self) -> ShardIndex:
        need(Path(self.config.shards) / INDEX, Command("shard"))
        index = load_index(Path(self.config.shards))
        check_same_vocabulary(
            self.vocabulary, index.vocabulary, index.folder / INDEX, Command("shard")
        )
        return index

    @cached_property
    def vocabulary(self) -> Vocabulary:
        need(Path(self.config.shards), Command("shard"))
        return load_vocabulary(Path(self.config.shards))

    @cached_property
    def photos(self) -> Photos:
        return Photos(self.index, self.vocabulary, self.config.split, self.config.seed)

    @cached_property
    def categories(self) -> list[int] | None:
        """The columns of `categories`, None for a choice of our own."""
        try:
            return (
                None
                if self.config.categories is None
                else find_rows(self.vocabulary, self.config.categories)
            )
        except UserError as error:
            raise UserError(
                f"{error} (categories takes names and MIDs of {self.config.shards}/vocabulary.json)"
            ) from error

    @cached_property
    def model_folder(self) -> Path:
        """Ours: `model`, else the demo's full model, else the last training."""
        full, last = self.work / "full/seed-0/model", self.work / "train/model"
        folder = Path(self.config.model) if self.config.model else full if full.exists() else last
        return export_at(folder, "train")

    @cached_property
    def mkt_folder(self) -> Path | None:
        """None where `mkt` was set to null, or left at auto without one in its usual place."""
        if self.config.mkt == AUTO:
            return usual if is_export(usual := self.work / USUAL_MKT) else None
        return export_at(Path(self.config.mkt), "train", "model=mkt") if self.config.mkt else None

    def lacks_mkt(self) -> bool:
        """Whether an MKT would be drawn if there were one."""
        return self.config.mkt == AUTO and self.mkt_folder is None

    @cached_property
    def ours(self) -> OurViewer:
        return OurViewer(self.load(self.model_folder, DRAWN["model"]), self.device)

    @cached_property
    def viewers(self) -> list[Viewer]:
        """The models that are compared: CLIP, MKT (if there is one), ours."""
        clip, folder = load_clip(self.config.clip), Path(self.config.text)
        text = load_text(folder, self.vocabulary, clip.hash)
        found: list[Viewer] = [ClipViewer(clip, text, templates_of(folder), self.device)]
        if self.mkt_folder:
            found.append(MktViewer(self.load(self.mkt_folder, DRAWN["mkt"]), self.device))
        return [*found, self.ours]

    def load(self, folder: Path, kind: str) -> Exported:
        """The export in a folder. Raises UserError if it is another kind of network or of another
        vocabulary.
        """
        exported = load_export(folder)
        check_same_vocabulary(self.vocabulary, exported.vocabulary.hash, folder, Command("train"))
        if exported.model.config.kind != kind:
            raise UserError(
                f"{folder} holds a model of kind {exported.model.config.kind} where one of kind"
                f" {kind} belongs"
            )
        return exported

    def made_from(self) -> dict:
        """Identity of the photos: shards, split, and what decides the choice. Raises UserError on
        what the split lacks.
        """
        config = self.config
        self.photos.places_of(config.images or [])
        return {
            "shards": self.index.source,
            "vocabulary": self.vocabulary.hash,
            "split": config.split,
            "seed": config.seed,
            "images": config.images,
            "categories": self.categories,
        }

    def made_from_ours(self) -> dict:
        return {"model": identity(self.model_folder)}

    def made_from_viewers(self) -> dict:
        """Identity of the models that are compared; the text features name their CLIP."""
        text = need(Path(self.config.text), Command("text"))
        clip = text_identity(text, self.vocabulary)
        return {
            **self.made_from_ours(),
            "mkt": identity(self.mkt_folder) if self.mkt_folder else None,
            "clip": clip,
        }


def export_at(folder: Path, verb: str, *overrides: str) -> Path:
    """The folder of an export, its parent's `model` too. Raises Missing, with the command that
    trains it.
    """
    for place in (folder, folder / "model"):
        if is_export(place):
            return place
    training = folder.parent if folder.name == "model" else folder
    raise Missing(
        f"there is no trained model in {folder}: make it with"
        f" `{Command(verb, *overrides, out=training)}`"
    )
