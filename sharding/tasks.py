"""From a configuration to the list of shards to make: which inputs, from which image source, under
which settings.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from c2srt.errors import UserError
from c2srt.files import hash_of, write_json
from c2srt.hints import Command
from c2srt.opened import read_json
from c2srt.scratch import origin
from c2srt.sharding.config import Config
from c2srt.sharding.folders import FolderSource, find_folders
from c2srt.sharding.inputs import inputs_path
from c2srt.sharding.pack import ShardTask, Source, finished, shard_name
from c2srt.sharding.packs import PackSource, find_packs
from c2srt.sharding.raw_files import RawFiles
from c2srt.sharding.urls import UrlSource
from c2srt.shards import Shard
from c2srt.shown import shown
from c2srt.storage import mirror

SETTINGS = "settings.json"


@dataclass(frozen=True)
class SettingsFile:
    """What settings.json must have."""

    settings: dict[str, Any]
    inputs: dict[str, str]


def choose_source(config: Config, raw: RawFiles) -> Source:
    """The image source that `data.images` names; auto: the first that is there of folders, packs,
    URLs. Raises UserError.
    """
    root, wanted = Path(config.data.root), config.data.images
    roots = list(dict.fromkeys([root, raw.folder.parent, raw.folder]))
    folders = find_folders(roots, config.splits) if wanted in ("auto", "folders") else {}
    if folders or wanted == "folders":
        require_splits(config, folders, "folder of images", "images/{0}/<id>.jpg")
        return FolderSource(folders)
    if origin(root) and wanted != "urls":
        raise UserError(
            f"{root} has no images/<split>/<id>.jpg of {', '.join(config.splits)}: put them there,"
            " or take data.images=urls; packs are read from a disk only"
        )
    packs = find_packs(roots, config.splits) if wanted in ("auto", "packs") else {}
    if packs or wanted == "packs":
        require_splits(config, packs, "CVDF pack", "{0}.tar.gz, or for train train_0.tar.gz …")
        return PackSource(packs)
    return UrlSource()


def require_splits(config: Config, found: dict, what: str, where: str) -> None:
    """Raises UserError if a split has no images of the chosen kind."""
    if absent := [split for split in config.splits if split not in found]:
        other = (
            f", or leave it out with 'splits=[{','.join(found)}]'"
            if found
            else ", or choose another data.images=…"
        )
        raise UserError(
            f"there is no {what} of {absent[0]} in {config.data.root}: put"
            f" {where.format(absent[0])} there{other}"
        )


def require_urls(paths: dict[str, Path], root: str) -> None:
    """Raises UserError if a split's images are to be downloaded but no row has a URL."""
    for split, path in paths.items():
        if (
            not pl.scan_parquet(path, glob=False)
            .select((pl.col("url") != "").any())
            .collect()
            .item()
        ):
            raise UserError(
                f"there are no images of {split} in {root} (no folder, no CVDF pack) and its image"
                f" CSV gives no URLs: put them in images/{split}/<id>.jpg"
            )


def check_settings(
    out: Path, config: Config, source: Source, inputs: dict[str, str], excluded: str = ""
) -> dict[str, str]:
    """Records what the folder's shards are made from and returns the settings hash of each split.

    `excluded`: the hash of data.exclude. Raises UserError if the folder holds shards of other
    inputs or settings: they are never overwritten in passing. What an earlier version converted
    otherwise is told by `check_version`, should any be added.
    """
    settings = {**config.settings(), "images": source.kind}
    path = out / SETTINGS
    again = f"choose another out=…, or remove {out} and run `{Command('shard')}`"
    old = (
        read_json(path, again, SettingsFile)
        if path.exists()
        else {"settings": settings, "inputs": {}}
    )
    new_inputs = {**old["inputs"], **inputs}
    before = old["settings"]
    if excluded or before.get("exclude"):
        settings["exclude"] = excluded
    if "conversion" not in before:
        settings.pop("conversion", None)
    changed = [
        f"{key} {shown(before.get(key))} → {value}"
        for key, value in settings.items()
        if before.get(key) != value
    ]
    changed += [
        f"the CSVs of {split}"
        for split in inputs
        if old["inputs"].get(split, inputs[split]) != inputs[split]
    ]
    if changed:
        raise UserError(
            f"{out} holds shards made otherwise (changed: {', '.join(changed)}): choose another"
            " out=…, or delete it"
        )
    write_json(path, {"settings": settings, "inputs": new_inputs})
    return {split: hash_of([settings, digest]) for split, digest in new_inputs.items()}


def check_version(out: Path, config: Config) -> None:
    """Raises UserError if the folder's shards were converted otherwise than this version does:
    none can be added.
    """
    before = read_json(out / SETTINGS, Command("shard"), SettingsFile)["settings"]
    if config.settings().get("conversion") != before.get("conversion"):
        raise UserError(
            f"{out} was begun by an earlier version of c2srt, which reduced pictures otherwise: its"
            " finished shards are used as they are, but none can be added; choose another out=…"
        )


def shard_tasks(
    out: Path,
    split: str,
    settings: str,
    source: Source,
    config: Config,
    excluded: dict[str, str] | None = None,
) -> list[ShardTask]:
    """The split's shards, done or not. `excluded`: reasons by id."""
    path = inputs_path(out, split)
    mirror.fetched(path)
    rows = pl.scan_parquet(path, glob=False)
    count = rows.select(pl.len()).collect().item()
    ids = rows.select("id").collect()["id"] if excluded else pl.Series(dtype=pl.String)
    size = config.images_per_shard
    spans = [(start, min(size, count - start)) for start in range(0, count, size)]
    return [
        ShardTask(
            shard_name(split, start // size),
            split,
            str(path),
            start,
            length,
            str(out),
            settings,
            source,
            config,
            {each: excluded[each] for each in ids[start : start + length] if each in excluded}
            if excluded
            else {},
        )
        for start, length in spans
    ]


def divide(tasks: list[ShardTask]) -> tuple[dict[str, Shard], list[ShardTask]]:
    """(what earlier runs finished, by name; what is left)"""
    done = {
        task.name: shard
        for task in tasks
        if (shard := finished(Path(task.out), task.name, task.settings))
    }
    return done, [task for task in tasks if task.name not in done]


def status_counts(out: Path, names: list[str]) -> pl.DataFrame:
    """Columns split, status, count over the sidecars of the named shards."""
    files = [out / f"{name}.parquet" for name in names]
    for file in files:
        mirror.fetched(file)
    if not files:
        return pl.DataFrame(schema={"split": pl.String, "status": pl.String, "count": pl.UInt32})
    return (
        pl.scan_parquet(files, glob=False)
        .group_by("split", "status")
        .agg(count=pl.len())
        .sort("split", "status")
        .collect()
    )
