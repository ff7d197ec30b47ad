"""What `c2srt predict` is told, apart from run.py so that it can be checked without torch."""

import math
import os
from contextlib import suppress
from dataclasses import MISSING, dataclass
from itertools import takewhile
from typing import Any

from c2srt.backbone.config import ClipConfig
from c2srt.backbone.prompts import check_templates, chosen_templates
from c2srt.choices import check_choice
from c2srt.download_config import DownloadConfig
from c2srt.errors import UserError
from c2srt.keys import Mark, Takes, key
from c2srt.predict.finding import is_url
from c2srt.predict.labels import Label, check_labels, read_labels, words_of
from c2srt.relations.config import WordsConfig
from c2srt.shared_keys import shared
from c2srt.shown import shown

CLIP = "clip"
"""What `checkpoint` names a CLIP by that nothing of ours was trained on."""
TEMPLATES = ["a photo of a {}."]
PRECISIONS = ("fp32", "bf16", "fp16")
AUTO, PROBABILITY, COSINE = SCORES = ("auto", "probability", "cosine")
"""What a score may be."""
XMP, DIGIKAM, ADOBE = "xmp", "digikam", "adobe"
TABLES = (".jsonl", ".csv", ".parquet")
NO_IMAGE = (
    "images=… names no image: give files, folders or patterns, such as"
    " 'images=[a.jpg,holiday/,\"*.png\"]'"
)
COMMAS = 9
"""Pieces that a file's name with commas is looked for in."""


@dataclass
class Config:
    """Keys of `c2srt predict`."""

    checkpoint: str = key(
        MISSING,
        "export folder (model.safetensors + config.json); or clip: the one of clip=…, zero-shot",
        mark=Mark.CONTENT,
        follows="${work}/train/model",
        takes=Takes.PLACE,
    )
    images: Any = key(
        None,
        (
            "list of files, folders (searched at any depth, links too), patterns, archives (.zip,"
            " uncompressed .tar: shards) and URLs; or a.jpg,b.jpg. What is the name of a file as it"
            " stands is that file"
        ),
        mark=Mark.CONTENT,
        takes=Takes.ADDRESS,
    )
    images_file: str | None = key(
        None,
        "a list of them instead, one a line (or parted by NUL), no patterns; -: standard input",
        mark=Mark.CONTENT,
    )
    labels: Any = key(
        None,
        (
            "words to rank, [dog,'red car'] or dog,red car or labels.txt; null: "
            "the model's vocabulary"
        ),
        mark=Mark.CONTENT,
    )
    labels_file: str | None = key(
        None,
        (
            "a file of them instead: .txt with one a line, or .csv with a header: name, and if"
            " wanted id and prompt (further rows of a name are further prompts)"
        ),
        mark=Mark.CONTENT,
    )
    topk: int = key(5, "labels kept per image")
    score: str = key(
        AUTO,
        "probability, of a model that `c2srt calibrate` wrote | cosine (times the model's score"
        " scale; of a CLIP the cosine) | auto: probability where the model has it",
    )
    threshold: Any = key(
        None,
        "leave out labels that score less; auto: than the probability from which naming one pays,"
        " by `c2srt calibrate`; null: none",
    )
    json: bool = key(False, "print one JSON line per image instead of a table", mark=Mark.HARMLESS)
    out: str | None = key(
        None,
        (
            "write x.jsonl, x.csv or x.parquet instead of printing; or xmp: a sidecar beside each"
            " picture. Run again after a kill it goes on"
        ),
        mark=Mark.HARMLESS,
    )
    sidecars: str = key(
        DIGIKAM,
        (
            "out=xmp: digikam: photo.jpg.xmp | adobe: photo.xmp, which Lightroom reads beside raw"
            " files only"
        ),
    )
    device: str = key(
        "auto",
        "auto: the GPU if there is one | cpu | cuda | cuda:1 | mps",
        mark=Mark.HARMLESS,
    )
    precision: str = key("fp32", "fp32 | bf16 | fp16, of the image tower and the head")
    batch: int | None = key(
        None, "images scored at a time; null: 16 on a CPU, 256 on a GPU", mark=Mark.HARMLESS
    )
    workers: int = shared("workers")
    decoders: int | None = key(
        None,
        (
            "processes of each worker that decode; null: 1 beside a model on a CPU, all cores"
            " beside one on a GPU"
        ),
        mark=Mark.HARMLESS,
    )
    words: WordsConfig = key(
        WordsConfig,
        (
            "words outside the vocabulary: their text features and neighbours "
            "are found once and kept"
        ),
    )
    clip: ClipConfig = shared("clip")
    templates: Any = key(
        "ensemble",
        "checkpoint=clip: a list of `prompts`, or an explicit list of templates with {}",
    )
    prompts: dict[str, list[str]] = key(
        {"ensemble": TEMPLATES},
        "the lists to choose from, by data set: configs/datasets/<data>.yaml",
        composed=False,
    )
    download: DownloadConfig = key(DownloadConfig, "of URLs", mark=Mark.HARMLESS)

    def __post_init__(self) -> None:
        self.images = self.images_meant()
        if self.topk < 1 or self.batch is not None and self.batch < 1:
            raise UserError(f"topk={self.topk} and batch={self.batch} must be at least 1")
        if self.workers < 1 or self.decoders is not None and self.decoders < 1:
            raise UserError(
                f"workers={self.workers} and decoders={self.decoders} must be at least 1"
            )
        self.labels = self.labels_meant()
        check_labels(self.labels)
        check_templates(self.chosen_templates)
        if self.precision not in PRECISIONS:
            raise UserError(f"precision={self.precision} is none of {', '.join(PRECISIONS)}")
        self.threshold = threshold_meant(self.threshold)
        check_choice("score", self.score, SCORES)
        if self.score == COSINE and self.threshold == AUTO:
            raise UserError(f"threshold={AUTO} is a probability: leave score={COSINE} out")
        if self.sidecars not in (DIGIKAM, ADOBE):
            raise UserError(f"sidecars={self.sidecars} is neither {DIGIKAM} nor {ADOBE}")
        self.check_out()

    def images_meant(self) -> list[str] | None:
        """The images as a list; None where `images_file` has them. Raises UserError if none are
        named.
        """
        images = self.images
        if isinstance(images, str):
            images = [images] if os.path.exists(images) else names_in(images)
        if images is None:
            return None
        if self.images_file:
            raise UserError("images=… and images_file=… are both given: give one of them")
        named = isinstance(images, list) and all(isinstance(image, str) for image in images)
        if not named or not images:
            raise UserError(NO_IMAGE)
        return images

    def labels_meant(self) -> Any:
        """The labels as a list, or None. Raises UserError if they cannot be read."""
        if not self.labels_file:
            return words_of(self.labels)
        if self.labels is not None:
            raise UserError("labels=… and labels_file=… are both given: give one of them")
        return read_labels(self.labels_file, "labels_file")

    def check_out(self) -> None:
        if self.out is None or self.out == XMP:
            return
        if os.path.splitext(self.out)[1].lower() not in TABLES:
            raise UserError(f"out={self.out} is neither {', '.join(TABLES)} nor {XMP}")

    @property
    def asked(self) -> list[Label] | None:
        """The labels; None: the model's vocabulary."""
        if self.labels is None:
            return None
        return [one if isinstance(one, Label) else Label(one) for one in self.labels]

    @property
    def chosen_templates(self) -> list[str]:
        """Of prompts for a CLIP. Raises UserError on an unknown name."""
        return chosen_templates(self.templates, self.prompts)


def threshold_meant(given: Any) -> float | str | None:
    """Raises UserError unless it is a number, `auto`, or None."""
    if given is None or given == AUTO:
        return given
    with suppress(TypeError, ValueError):
        if not isinstance(given, bool) and math.isfinite(float(given)):
            return float(given)
    raise UserError(f"threshold={shown(given)} must be a number, {AUTO} or null")


def names_in(text: str) -> list[str]:
    """`a.jpg,b (1).jpg` as names: what lies between commas, or, where that is the name of a file,
    what lies between further ones. After a comma in a URL comes more of it, unless that is another
    URL or a file.
    """
    pieces, found = text.split(","), []
    while pieces:
        if is_url(pieces[0].strip()):
            count = 1 + len(list(takewhile(belongs_to_url, pieces[1:])))
        else:
            counts = range(min(COMMAS, len(pieces)), 1, -1)
            joined = (count for count in counts if os.path.exists(",".join(pieces[:count]).strip()))
            count = next(joined, 1)
        found.append(",".join(pieces[:count]).strip())
        pieces = pieces[count:]
    return [name for name in found if name]


def belongs_to_url(piece: str) -> bool:
    return not is_url(piece.strip()) and not os.path.exists(piece.strip())
