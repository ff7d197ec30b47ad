"""What the audit (sharding/audit.py) asks of a shard's tar: its members, where the sidecar says
that they lie, and the JPEG and JSON of each sample.
"""

import mmap
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import simplejpeg

from c2srt.opened import BoundedHeader, parse_json
from c2srt.pictures import MAX_PIXELS, decode_packed
from c2srt.shards import ID, SPANS
from c2srt.shown import shown

ATTRIBUTION = ("author", "license", "landing_url", "title")
SHOWN = 5  # MIDs or ids spelled out in one finding; the rest is counted


@dataclass(frozen=True)
class Sample:
    """A well-formed pair of tar members: (offset, bytes) of the content of each."""

    id: str
    jpg: tuple[int, int]
    json: tuple[int, int]


def read_members(path: Path, samples: list[Sample]) -> Iterator[tuple[str, str]]:
    """Walks the tar, appends its well-formed pairs to `samples`, yields what is wrong with every
    other member.
    """
    jpg: tuple[str, tuple[int, int]] | None = None
    try:
        with tarfile.open(path, "r:", errorlevel=2, tarinfo=BoundedHeader) as tar:
            for member in tar:
                if wrong := refused(member):
                    yield "", wrong
                    continue
                image_id, _, kind = member.name.partition(".")
                span = (member.offset_data, member.size)
                if kind == "jpg":
                    if jpg:
                        yield jpg[0], f"{jpg[0]}.jpg is not followed by its {jpg[0]}.json"
                    jpg = (image_id, span)
                elif jpg and jpg[0] == image_id:
                    if samples and image_id <= samples[-1].id:
                        yield (
                            image_id,
                            f"comes after {samples[-1].id} in the tar: not sorted, or twice",
                        )
                    samples.append(Sample(image_id, jpg[1], span))
                    jpg = None
                else:
                    yield image_id, f"{member.name} does not follow its {image_id}.jpg"
    except Exception as error:  # tarfile documents fewer than damaged headers raise
        yield "", f"{path.name} cannot be read to its end as a tar: {error}"
    if jpg:
        yield jpg[0], f"{jpg[0]}.jpg is not followed by its {jpg[0]}.json"


def refused(member: tarfile.TarInfo) -> str:
    """Why a member is none of ours, or "": only regular files named `<id>.jpg` or `<id>.json`
    are.
    """
    parts = member.name.replace("\\", "/").split("/")
    if member.name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        return f"member '{shown(member.name)}' tries to leave the folder: refused"
    if not member.isreg() or member.issparse():
        return f"member '{shown(member.name)}' is not a regular file: refused"
    if len(parts) > 1:
        return f"member '{shown(member.name)}' is not a base name: refused"
    if not re.fullmatch(rf"{ID}\.(jpg|json)", member.name):
        return f"member '{shown(member.name)}' is neither <id>.jpg nor <id>.json: refused"
    return ""


def check_offsets(packed: pl.DataFrame, samples: list[Sample]) -> Iterator[tuple[str, str]]:
    """The sidecar's packed rows, in the order of `member`, against the tar's samples."""
    listed = {row["id"]: row for row in packed.select("id", "member", *SPANS).iter_rows(named=True)}
    for number, sample in enumerate(samples):
        row = listed.pop(sample.id, None)
        if row is None:
            yield sample.id, "is in the tar but the sidecar does not say so"
            continue
        spans = (row["jpg_offset"], row["jpg_bytes"]), (row["json_offset"], row["json_bytes"])
        if row["member"] != number:
            yield sample.id, f"is sample {number} of the tar, the sidecar says {row['member']}"
        if spans != (sample.jpg, sample.json):
            yield (
                sample.id,
                (
                    f"lies at (offset, bytes) {sample.jpg} and {sample.json} in the tar, the"
                    f" sidecar says {spans[0]} and {spans[1]}"
                ),
            )
    for image_id in listed:
        yield image_id, "is packed according to the sidecar but is not in the tar"


def check_samples(
    path: Path, samples: list[Sample], table: pl.DataFrame | None, rows: pl.DataFrame
) -> Iterator[tuple[str, str]]:
    """Every sample's JPEG and JSON against the sidecar's size and the CSVs' labels and
    attribution.
    """
    place = {
        image_id: row for row, image_id in enumerate(rows["id"])
    }  # one row at a time as objects: lists can be long
    sizes = (
        {}
        if table is None
        else {row[0]: row[1:] for row in table.select("id", "width", "height").iter_rows()}
    )
    if not samples:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for sample in samples:
            jpg, text = (
                content[offset : offset + size] for offset, size in (sample.jpg, sample.json)
            )
            if sample.id not in place:
                yield sample.id, "is in the tar but is none of the shard's images in the CSVs"
                continue
            for what in check_sample(
                sample.id, jpg, text, sizes.get(sample.id), rows.row(place[sample.id], named=True)
            ):
                yield sample.id, what


def check_sample(
    image_id: str, jpg: bytes, text: bytes, size: tuple[int, int] | None, expected: dict
) -> Iterator[str]:
    """What is wrong with one sample."""
    try:
        found = parse_json(text)
        stated = (found["width"], found["height"])
        positive, negative, attribution = found["positive"], found["negative"], found["attribution"]
        same_id = found["id"] == image_id
    except (ValueError, KeyError, TypeError) as error:
        yield f"{image_id}.json is not the JSON of a sample ({type(error).__name__}: {error})"
        return
    if not same_id:
        yield f"{image_id}.json is about image {found['id']}"
    if size is not None and stated != size:
        yield (
            f"{image_id}.json says {stated[0]} × {stated[1]} pixels, the sidecar {size[0]} ×"
            f" {size[1]}"
        )
    for name, labels in (("positive", positive), ("negative", negative)):
        if labels != expected[name]:
            yield f"{name} labels differ from the CSVs' ({difference(labels, expected[name])})"
    if changed := [
        name
        for name in ATTRIBUTION
        if not isinstance(attribution, dict) or attribution.get(name) != expected[name]
    ]:
        yield f"{', '.join(changed)} of the attribution differ from the image CSV"
    yield from check_jpeg(image_id, jpg, stated)


def check_jpeg(image_id: str, jpg: bytes, stated: tuple[int, int]) -> Iterator[str]:
    """Decodes strictly, but only what the header says is of the stated size: a bomb is named, not
    inflated.
    """
    try:
        with suppress(ValueError):  # no JPEG: the loader may still know it
            height, width, *_ = simplejpeg.decode_jpeg_header(jpg)
            if (width, height) != stated:
                yield (
                    f"{image_id}.jpg has {width} × {height} pixels, its JSON says {stated[0]} ×"
                    f" {stated[1]}"
                )
                return
        most = (
            min(MAX_PIXELS, max(1, stated[0] * stated[1]))
            if all(type(side) is int for side in stated)
            else MAX_PIXELS
        )
        pixels: np.ndarray = decode_packed(jpg, most)
        if pixels.shape != (stated[1], stated[0], 3):
            yield (
                f"{image_id}.jpg decodes to shape {pixels.shape}, its JSON says {stated[0]} ×"
                f" {stated[1]}"
            )
    except ValueError as error:
        yield f"{image_id}.jpg does not decode: {error}"


def difference(found: object, expected: Sequence[str]) -> str:
    """Two lists of MIDs in words: what only one has, or that the order differs."""
    if not isinstance(found, list | tuple) or not all(isinstance(mid, str) for mid in found):
        return "not a list of MIDs"
    only = [
        (some(set(found) - set(expected)), "only in the shard"),
        (some(set(expected) - set(found)), "only in the CSVs"),
    ]
    return (
        ", ".join(f"{mids} {where}" for mids, where in only if mids)
        or "same MIDs in another order, or twice"
    )


def some(mids: set[str]) -> str:
    return " ".join(sorted(mids)[:SHOWN]) + (
        f" and {len(mids) - SHOWN} more" if len(mids) > SHOWN else ""
    )
