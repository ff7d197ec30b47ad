"""`c2srt bench packing`: images a second of `c2srt shard` with `threads` workers, from 1,024 × 768
to a short side of 256 at quality 90.

    conversion alone     the same files read and converted, and nothing else: what `c2srt shard` of
                         a folder is compared with
    img2dataset          the same URLs, at the same size and quality, in an environment of its own
                         (`peer`): what `c2srt shard` of URLs is compared with

Every side is a process of its own, and what it starts: its time is that of the call, imports
before, and its CPU seconds are those of all its processes (c2srt/bench/metered.py). The server of
the URLs is another process, and nobody's time. Memory is the largest process's.
"""

import atexit
import csv
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from c2srt.bench import metered
from c2srt.bench.config import Config
from c2srt.bench.drawn_photographs import photographs
from c2srt.children import python_path
from c2srt.errors import UserError
from c2srt.isolation import SETTINGS
from c2srt.profiling import Side, Stopwatch
from c2srt.sharding.annotations import IMAGE_COLUMNS
from c2srt.shards import load_index

log = logging.getLogger(__name__)
SHARDS_A_WORKER = 4
PEER = "img2dataset"
LAST_WORDS = 300  # characters


def packing(config: Config) -> list[Side]:
    """Both roads, each after what it is compared with."""
    if config.peer:
        check_peer(config.peer)
    folder = Path(tempfile.mkdtemp(prefix="c2srt-packing-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    raw = Raw(folder, config.photographs, config.seed)
    side = partial(Side, images=config.photographs)
    shard = partial(shards, raw, config)
    sides = [
        side("conversion alone", partial(conversion, raw, config), baseline=True),
        side("c2srt, from a folder", partial(shard, "folders")),
    ]
    if config.peer:
        sides.append(side(f"{PEER}, from URLs", partial(peer, raw, config), baseline=True))
    else:
        log.info(f"{PEER} is left out: peer=… is the Python of an environment that has it")
    return [*sides, side("c2srt, from URLs", partial(shard, "urls"))]


class Raw:
    """A small data set in Open Images' layout, its pictures in a folder and at a server."""

    def __init__(self, folder: Path, count: int, seed: int) -> None:
        self.folder, self.root = folder, folder / "raw"
        self.images, self.urls = self.root / "images/train", folder / "urls.txt"
        for each in (drawn := folder / "drawn", self.images, self.root / "2018_04/train"):
            each.mkdir(parents=True)
        files, ids = photographs(drawn, seed), [f"{number:016x}" for number in range(count)]
        for number, image_id in enumerate(ids):
            os.link(files[number % len(files)], self.images / f"{image_id}.jpg")
        address = start_server(self.images)
        urls = {image_id: f"{address}/{image_id}.jpg" for image_id in ids}
        self.urls.write_text("".join(f"{url}\n" for url in urls.values()), encoding="utf-8")
        self.write_lists(urls)

    def write_lists(self, urls: dict[str, str]) -> None:
        lists = self.root / "2018_04"
        (lists / "classes-seen.txt").write_text("/m/01\n", encoding="utf-8")
        (lists / "classes-unseen.txt").write_text("/m/02\n", encoding="utf-8")
        write_csv(lists / "class-descriptions.csv", [["/m/01", "one"], ["/m/02", "two"]])
        rows = [
            {"ImageID": image_id, "Subset": "train", "OriginalURL": url}
            for image_id, url in urls.items()
        ]
        images = [[row.get(name, "") for name in IMAGE_COLUMNS] for row in rows]
        write_csv(lists / "train/images.csv", [list(IMAGE_COLUMNS), *images])
        labels = [[image_id, "verification", "/m/01", 1] for image_id in urls]
        write_csv(
            lists / "train/train-annotations-human-imagelabels.csv",
            [["ImageID", "Source", "LabelName", "Confidence"], *labels],
        )


def write_csv(path: Path, rows: list[list]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def start_server(folder: Path) -> str:
    """Its address. It ends with this process."""
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "c2srt.bench.picture_server", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": python_path()},
    )
    atexit.register(server.kill)
    assert server.stdout is not None
    return server.stdout.readline().decode().strip()


# --- the sides


def conversion(raw: Raw, config: Config) -> Stopwatch:
    given = {"folder": str(raw.images), "processes": config.threads}
    return ours(raw, "c2srt.bench.packed:convert_alone", given)


def shards(raw: Raw, config: Config, images: str) -> Stopwatch:
    """Raises UserError if a picture is missing afterwards."""
    out = fresh(raw.folder / "shards")
    given = {
        "root": str(raw.root),
        "images": images,
        "out": str(out),
        "per_shard": per_shard(config),
        "processes": config.threads,
    }
    watch = ours(raw, "c2srt.bench.packed:shard", given)
    packed = sum(shard.count for shard in load_index(out).split("train"))
    return whole(watch, packed, config)


def peer(raw: Raw, config: Config) -> Stopwatch:
    """As its documentation would have it for such shards. Raises UserError as `shards`."""
    out = fresh(raw.folder / PEER)
    given = {
        "url_list": str(raw.urls),
        "output_folder": str(out),
        "output_format": "webdataset",
        "image_size": 256,
        "resize_mode": "keep_ratio",
        "resize_only_if_bigger": True,
        "encode_quality": 90,
        "number_sample_per_shard": per_shard(config),
        "processes_count": config.threads,
    }
    watch = metered_run(raw, config.peer, f"{PEER}:download", given, {})
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in out.glob("*_stats.json")]
    return whole(watch, sum(report["successes"] for report in reports), config)


def per_shard(config: Config) -> int:
    return -(-config.photographs // (SHARDS_A_WORKER * config.threads))


def fresh(out: Path) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    return out


def whole(watch: Stopwatch, packed: int, config: Config) -> Stopwatch:
    if packed != config.photographs:
        raise UserError(
            f"{packed:,} of {config.photographs:,} pictures were packed, so nothing can be"
            " compared: free some memory and disk, or take fewer photographs=…"
        )
    return watch


# --- what they take


def ours(raw: Raw, function: str, given: dict) -> Stopwatch:
    """Conversion alone has the memory that a decoder's process has (c2srt/isolation.py)."""
    settings = SETTINGS if function.endswith("alone") else {}
    environment = settings | {"PYTHONPATH": python_path()}
    return metered_run(raw, sys.executable, function, given, environment)


def metered_run(
    raw: Raw, python: str, function: str, given: dict, environment: dict[str, str]
) -> Stopwatch:
    """Raises UserError if it fails, with its last words."""
    report, said, compiled = (raw.folder / name for name in ("report.json", "said.txt", "compiled"))
    program = Path(metered.__file__).read_text(encoding="utf-8")
    with said.open("wb") as file:
        ended = subprocess.run(
            [python, "-c", program, function, json.dumps(given), str(report)],
            cwd=raw.folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=surroundings(compiled) | environment,
        )
    if ended.returncode:
        words = said.read_text(encoding="utf-8", errors="replace").strip()[-LAST_WORDS:]
        raise UserError(f"{function} failed in the benchmark; its last words: {words}")
    return Stopwatch(**json.loads(report.read_text(encoding="utf-8")))


def surroundings(compiled: Path) -> dict[str, str]:
    """The environment, and what Python compiles is kept in a folder, as any installation keeps it:
    else each process of a side would compile all libraries again where the environment forbids to
    keep it, a second each.
    """
    own = {"NO_ALBUMENTATIONS_UPDATE": "1", "PYTHONPYCACHEPREFIX": str(compiled)}
    kept = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | own


def check_peer(python: str) -> None:
    """Raises UserError unless this Python has img2dataset."""
    command = [python, "-c", f"import importlib.util as u; assert u.find_spec({PEER!r})"]
    try:
        found = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        found = False
    if not found:
        raise UserError(
            f"peer={python} is no Python that has {PEER}: give that of an environment of its own,"
            f" such as <environment>/bin/python after `pip install {PEER}` there"
        )
