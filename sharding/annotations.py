"""The Open Images V4 files as they lie on disk → one parquet per split with a row for every image.

Columns of the parquet: id (16 hex digits, sorted, unique), url, landing_url, license, author, title
(str, "" = unknown), original_size (int64, bytes, null = unknown), original_md5 (str, base64, null =
unknown), thumbnail_url (str), rotation (int32, degrees counter-clockwise, null = unknown), listed
(bool: in the image CSV), positive and negative (list[str], sorted MIDs: verified present and
verified absent; a MID in neither list is unverified).

A pair (image, MID) that people verified as both present and absent is neither: it goes to
`<stem>-contradictory.parquet`.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet

from c2srt.errors import UserError
from c2srt.files import TEMPORARY, raise_if_storage, whole_file
from c2srt.redact import HIDDEN
from c2srt.sharding.csvs import DIGITS, bucket, damaged, read_blocks, scatter
from c2srt.sharding.input_report import EXAMPLES, InputReport
from c2srt.sharding.raw_files import RawFiles, SplitFiles, class_names
from c2srt.shown import shown
from c2srt.storage import mirror

IMAGE_COLUMNS = {
    "ImageID": pa.string(),
    "Subset": pa.string(),
    "OriginalURL": pa.string(),
    "OriginalLandingURL": pa.string(),
    "License": pa.string(),
    "Author": pa.string(),
    "Title": pa.string(),
    "OriginalSize": pa.int64(),
    "OriginalMD5": pa.string(),
    "Thumbnail300KURL": pa.string(),
    "Rotation": pa.float64(),
}
LABEL_COLUMNS = {"ImageID": pa.string(), "LabelName": pa.string(), "Confidence": pa.float64()}
IMAGE_SCHEMA = pl.Schema(
    {
        "id": pl.String,
        "url": pl.String,
        "landing_url": pl.String,
        "license": pl.String,
        "author": pl.String,
        "title": pl.String,
        "original_size": pl.Int64,
        "original_md5": pl.String,
        "thumbnail_url": pl.String,
        "rotation": pl.Int32,
    }
)
LABEL_SCHEMA = pl.Schema({"id": pl.String, "mid": pl.String, "present": pl.Boolean})
URLS = ("url", "landing_url", "thumbnail_url")
WITH_PASSWORD = r"^(\s*[A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@"
TEXTS = ("url", "landing_url", "license", "author", "title", "thumbnail_url")
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        *((name, pa.string()) for name in TEXTS[:-1]),
        ("original_size", pa.int64()),
        ("original_md5", pa.string()),
        ("thumbnail_url", pa.string()),
        ("rotation", pa.int32()),
        ("listed", pa.bool_()),
        ("positive", pa.list_(pa.string())),
        ("negative", pa.list_(pa.string())),
    ]
)
CONTRADICTORY_SCHEMA = pa.schema([("id", pa.string()), ("mid", pa.string())])
WELL_FORMED = "^[0-9a-f]{16}$"
GROUP_ROWS = (
    1 << 16
)  # of the parquet: a reader of one range of ids touches little more than that range


def write_inputs(
    raw: RawFiles, split: str, out: Path, machine_threshold: float | None = None
) -> InputReport:
    """Writes `out`, the parquet that this module's docstring specifies; its bytes depend on the
    CSVs' content only.

    With `machine_threshold`, machine labels of at least that confidence are positives too, wherever
    no person verified the pair. Memory is a sixteenth of the split's rows, whatever the order of
    the files. Raises UserError on missing or damaged files.
    """
    if machine_threshold is not None and not 0 < machine_threshold <= 1:
        raise UserError(f"machine_threshold {machine_threshold} is outside (0, 1]")
    files, report = raw.split(split), InputReport(split)
    human, machine = files.labels, files.machine_labels
    assert human is not None, "`RawFiles.split` asks for it"
    if machine_threshold is not None and machine is None:
        raise UserError(
            f"{raw.folder / split / f'{split}-annotations-machine-imagelabels.csv'} does not exist:"
            " download it, or leave machine_threshold empty"
        )
    buckets = out.with_name(f"{out.name}{TEMPORARY}buckets")
    shutil.rmtree(buckets, ignore_errors=True)
    try:
        scatter(image_blocks(files, split, report), buckets / "images")
        scatter(label_blocks(human, None, report), buckets / "human")
        if machine is not None and machine_threshold is not None:
            scatter(label_blocks(machine, machine_threshold, report), buckets / "machine")
        write_rows(buckets, out, report, class_names(raw))
    except OSError as error:
        raise_if_storage(error, out)
        raise
    finally:
        shutil.rmtree(buckets, ignore_errors=True)
    return report


def require_images(files: SplitFiles, report: InputReport) -> None:
    """Raises UserError if no row of the split can be used: there would be nothing to make a shard
    of.
    """
    if report.images:
        return
    if report.malformed_ids:
        shown = report.malformed_examples[0].strip("'") or "nothing"
        raise UserError(
            f"of the {report.malformed_ids:,} rows of {report.split} none has a usable ImageID "
            f"(they look like {shown}): an ImageID is 16 hex digits, the image's file name "
            f"without .jpg; correct {files.images} and {files.labels}"
        )
    raise UserError(
        f"the split {report.split} has no image: neither {files.images} nor {files.labels} "
        "has a row of it; download them again, or leave it out of 'splits=[…]'"
    )


def well_formed(block: pl.DataFrame, report: InputReport) -> pl.DataFrame:
    """Drops and counts the rows whose id is not 16 hex digits."""
    bad = block.filter(~pl.col("id").fill_null("").str.contains(WELL_FORMED))
    if not len(bad):
        return block
    report.malformed_ids += len(bad)
    report.malformed_examples += [
        repr(shown(name or "", 38))
        for name in bad["id"].head(EXAMPLES - len(report.malformed_examples))
    ]
    return block.filter(pl.col("id").fill_null("").str.contains(WELL_FORMED))


def image_blocks(files: SplitFiles, split: str, report: InputReport) -> Iterator[pl.DataFrame]:
    """The split's rows of the image CSV as blocks of IMAGE_SCHEMA."""
    listed = files.images
    assert listed is not None, "`RawFiles.split` asks for it"

    def keep(block: pl.DataFrame) -> pl.DataFrame:
        other = block.filter(pl.col("Subset").ne_missing(split))
        if len(other) and not files.shared_images:
            raise UserError(
                f"{files.images} holds image {shown(other['ImageID'][0])} of subset"
                f" '{shown(other['Subset'][0])}': it is not the list of {split}; download it again"
            )
        rows = block.filter(pl.col("Subset") == split).drop("Subset")
        rows = well_formed(rows.rename(dict(zip(rows.columns, IMAGE_SCHEMA, strict=True))), report)
        turned = rows.filter(~pl.col("rotation").is_in([0.0, 90.0, 180.0, 270.0]))
        if len(turned):
            raise damaged(listed, f"image {turned['id'][0]} has rotation {turned['rotation'][0]:g}")
        rows = rows.cast(IMAGE_SCHEMA)
        report.passwords += int(rows["url"].str.contains(WITH_PASSWORD).sum())
        masked = pl.col(URLS).str.replace(WITH_PASSWORD, f"${{1}}{HIDDEN}@")
        return rows.with_columns(masked).with_columns(pl.col(TEXTS).fill_null(""))

    return map(keep, read_blocks(listed, IMAGE_COLUMNS, optional=("Rotation",)))


def label_blocks(
    path: Path, threshold: float | None, report: InputReport
) -> Iterator[pl.DataFrame]:
    """A label CSV's rows as blocks of LABEL_SCHEMA: all human ones (threshold None), or machine
    ones from the threshold up.
    """

    def keep(block: pl.DataFrame) -> pl.DataFrame:
        holes = block.filter(pl.col("LabelName").is_null() | pl.col("Confidence").is_null())
        if len(holes):
            raise damaged(
                path,
                f"a row of image {shown(holes['ImageID'][0])} lacks its LabelName or Confidence",
            )
        if threshold is not None:
            block = block.filter(pl.col("Confidence") >= threshold)
            report.machine_rows += len(block)
        else:
            odd = block.filter(~pl.col("Confidence").is_in([0.0, 1.0]))
            if len(odd):
                image_id, mid, value = odd.row(0)
                raise UserError(
                    f"{path} has confidence {value:g} for {shown(mid)} in image {shown(image_id)},"
                    " where people say 0 or 1: is it the machine label file? Download the"
                    " human one"
                )
            report.label_rows += len(block)
        return well_formed(
            block.select(id="ImageID", mid="LabelName", present=pl.col("Confidence") > 0), report
        )

    return map(keep, read_blocks(path, LABEL_COLUMNS))


def write_rows(buckets: Path, out: Path, report: InputReport, names: dict[str, str]) -> None:
    """Joins images and labels bucket by bucket, in the order of ids, into `out` and its
    contradictory pairs beside it.
    """
    unknown: set[str] = set()
    side = out.with_name(f"{out.stem}-contradictory.parquet")
    with (
        whole_file(side) as side_file,
        whole_file(out) as rows_file,
        pa.parquet.ParquetWriter(rows_file, SCHEMA, compression="zstd") as rows_writer,
        pa.parquet.ParquetWriter(
            side_file, CONTRADICTORY_SCHEMA, compression="zstd"
        ) as side_writer,
    ):
        for digit in DIGITS:
            images = bucket(buckets / "images", digit, IMAGE_SCHEMA)
            labels, contradictory = verified_pairs(
                bucket(buckets / "human", digit, LABEL_SCHEMA),
                bucket(buckets / "machine", digit, LABEL_SCHEMA),
                report,
            )
            unknown |= set(labels["mid"].unique()) - names.keys()
            rows_writer.write_table(
                as_table(join_images(images, labels, report), SCHEMA), row_group_size=GROUP_ROWS
            )
            side_writer.write_table(as_table(contradictory, CONTRADICTORY_SCHEMA))
    if not report.contradictory:
        mirror.remove(side)
    report.unknown_mids, report.unknown_examples = (
        len(unknown),
        [shown(mid) for mid in sorted(unknown)[:EXAMPLES]],
    )


def verified_pairs(
    human: pl.DataFrame, machine: pl.DataFrame, report: InputReport
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Unique (id, mid, present) and the contradictory (id, mid), sorted; a machine label never
    settles what people verified.
    """
    pairs = human.group_by("id", "mid").agg(
        pl.len().alias("rows"),
        pl.col("present").any().alias("present"),
        pl.col("present").all().alias("agreed"),
    )
    clash = pl.col("present") != pl.col("agreed")  # any but not all
    contradictory = pairs.filter(clash).select("id", "mid").sort("id", "mid")
    report.contradictory += len(contradictory)
    report.duplicate_label_rows += len(human) - len(pairs) - len(contradictory)
    unverified = machine.unique(["id", "mid"])
    report.duplicate_label_rows += len(machine) - len(unverified)
    agreed = pairs.filter(~clash).select("id", "mid", "present")
    return (
        pl.concat([agreed, unverified.join(pairs, on=["id", "mid"], how="anti")]).sort("id", "mid"),
        contradictory,
    )


def join_images(images: pl.DataFrame, labels: pl.DataFrame, report: InputReport) -> pl.DataFrame:
    """One row per image of either table, sorted by id, labels gathered into lists; counts into
    `report`.
    """
    unique = images.unique("id", keep="first", maintain_order=True).with_columns(
        listed=pl.lit(True)
    )
    lists = labels.group_by("id", maintain_order=True).agg(
        positive=pl.col("mid").filter(pl.col("present")),
        negative=pl.col("mid").filter(~pl.col("present")),
    )
    empty = pl.lit([], dtype=pl.List(pl.String))
    rows = (
        unique.join(lists, on="id", how="full", coalesce=True)
        .sort("id")
        .with_columns(
            pl.col("listed").fill_null(False),
            pl.col(TEXTS).fill_null(""),
            pl.col("positive", "negative").fill_null(empty),
        )
    )
    labelled = (pl.col("positive").list.len() + pl.col("negative").list.len()) > 0
    report.duplicate_image_rows += len(images) - len(unique)
    report.images += len(rows)
    report.listed += len(unique)
    report.labelled += len(rows.filter(labelled))
    report.unlisted += len(rows) - len(unique)
    report.unlabelled += len(rows.filter(~labelled))
    report.positives += int(labels["present"].sum())
    report.negatives += len(labels) - int(labels["present"].sum())
    return rows


def as_table(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    return frame.select(schema.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)
