"""What lies in a store, as files of this machine (c2srt/scratch.py says where): fetched when they
are opened, sent when they are whole.

    pull(folder)       all small objects below a place become files, so that a folder can be looked
                       through; what is gone from the store goes here, too
    fetched(path)      the one object is here now, in its present version
    send(file, path)   the object is what `file` holds; records (.json) of a folder come last
    remove(path)       the object is gone

The store has the truth and is written first: whatever a killed command leaves here and did not send
is fetched, or made, again. A note beside each file says which version it is. For paths that stand
for no place all of these do nothing, and nothing that speaks to stores is imported.
"""

import errno
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from c2srt.errors import UserError
from c2srt.scratch import NOTES, OBJECTS, Meta, Place, note_of, odd_names, origin, path_of

if TYPE_CHECKING:
    from c2srt.storage.stores import S3, Web

log = logging.getLogger(__name__)

PIECE = 8 << 20
"""Bytes of a large object that are fetched at a time."""
AT_A_TIME = 16
MENDED = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.EIO),
)
"""What may be wrong with the folder in which all this is kept."""
LARGE = re.compile(
    r".*(-\d{6,}\.(tar|parquet|npy)|\.safetensors|/inputs/[^/]+\.parquet|/offsets-[^/]+\.bin)",
    re.DOTALL,
)
"""Fetched, or read by ranges, when they are opened only: shards, their sidecars, tables and
features, weights.
"""
SENT_AWAY = ".tar"
"""Not kept here once they are in the store: they are read by ranges."""
RECORD = ".json"
CURRENT: set[str] = set()
"""Files of which this process, or the one that it was forked from, has seen that they are the
store's.
"""
FETCHING = threading.RLock()


def store_at(place: Place) -> "S3 | Web":
    from c2srt.storage.stores import store_of

    return store_of(place.scheme, place.bucket)


def bucket_of(place: Place) -> "S3":
    """The store of a place that is written: no command starts that would write to another."""
    assert place.writable, place
    return cast("S3", store_at(place))


@contextmanager
def keeping(path: Path) -> Iterator[None]:
    """While something is kept below the scratch folder: what a user can mend is a UserError."""
    try:
        yield
    except OSError as error:
        refuse_to_keep(path, error)
        raise


def refuse_to_keep(path: Path, error: OSError) -> None:
    """Raises UserError if it is the scratch folder that cannot be written; returns on any other
    error.
    """
    if error.errno in MENDED and f"/{OBJECTS}/" in f"{path}/".replace(f"/{NOTES}/", f"/{OBJECTS}/"):
        where = str(path).partition(f"/{OBJECTS}")[0].partition(f"/{NOTES}")[0]
        raise UserError(
            f"{where} cannot be written ({error.strerror}), where what stores hold is kept"
            " meanwhile: free some space, or name another folder by C2SRT_STORE=…"
        ) from error


# --- notes


def note(path: Path) -> Meta | None:
    """Which version the file is; None where nothing is known of it."""
    try:
        said = json.loads(note_of(path).read_text(encoding="utf-8"))
        return Meta(int(said["size"]), str(said["tag"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def take_note(path: Path, meta: Meta) -> None:
    """After the file itself: without its note a file is not trusted."""
    place = note_of(path)
    with keeping(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f"{place.name}.tmp-{os.getpid()}")
        temporary.write_text(json.dumps(meta._asdict()), encoding="utf-8")
        os.replace(temporary, place)
    CURRENT.add(str(path))


def forget(path: Path) -> None:
    """Removes a file that the store no longer has, and its note."""
    CURRENT.discard(str(path))
    path.unlink(missing_ok=True)
    note_of(path).unlink(missing_ok=True)


# --- from the store


def fetched(path: Path) -> None:
    """Makes `path` the present version of its object, if it stands for one that is there. Raises
    UserError.
    """
    place = origin(path)
    if place is None or str(path) in CURRENT and path.exists():
        return
    with FETCHING:
        known, meta = note(path), store_at(place).meta(place.key)
        if meta is None:
            if known:
                forget(path)
        elif known == meta and path.is_file():
            CURRENT.add(str(path))
        else:
            fetch(place, path, meta)


def fetch(place: Place, path: Path, meta: Meta) -> None:
    """Writes the object to `path`, whole or not at all. Raises UserError."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    spans = [(at, min(PIECE, meta.size - at)) for at in range(0, meta.size, PIECE)]
    with keeping(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.truncate(meta.size)

                def piece(span: tuple[int, int]) -> None:
                    os.pwrite(file.fileno(), store_at(place).read(place.key, *span, meta), span[0])

                at_once(piece, spans)
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    take_note(path, meta)


def at_once(work: Callable, items: list) -> list:
    """`work` of every item, AT_A_TIME at once. Raises the first failure."""
    if len(items) < 2:
        return [work(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(AT_A_TIME, len(items))) as pool:
        try:
            return list(pool.map(work, items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def pull(folder: Path, leave: Callable[[str], bool] = lambda key: False) -> None:
    """Makes the small objects below the place of `folder` files, and removes those that are no
    longer there. A folder in which there is one that `leave` names is not looked through. Raises
    UserError.
    """
    place = origin(folder)
    if place is None:
        return
    with keeping(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not place.writable:
        return
    store = bucket_of(place)
    prefix = f"{place.key}/" if place.key else ""
    found = {key: meta for key, meta in walked(store, prefix, leave) if not odd_names(key)}
    home = path_of(place._replace(key=""))
    for path in noted_below(folder):
        if path.relative_to(home).as_posix() not in found:
            forget(path)
    paths = {home / key: (key, meta) for key, meta in found.items() if origin(home / key)}
    new = [path for path, (key, meta) in paths.items() if note(path) != meta or not path.is_file()]
    CURRENT.update(str(path) for path in paths.keys() - set(new))
    wanted = [path for path in new if not LARGE.fullmatch(str(path))]
    if wanted:
        total = sum(paths[path][1].size for path in wanted)
        log.info(f"fetching {len(wanted):,} files ({total / 2**20:,.1f} MiB) from {place}")
    for path in set(new) - set(wanted):
        forget(path)
    at_once(
        lambda path: fetch(Place("s3", place.bucket, paths[path][0]), path, paths[path][1]), wanted
    )


def walked(store: "S3", prefix: str, leave: Callable[[str], bool]) -> Iterator[tuple[str, Meta]]:
    """The objects below, but for folders with one that is left: millions of images, perhaps."""
    after = ""
    while True:
        for key, meta in store.listing(prefix, after):
            folder = f"{key.rpartition('/')[0]}/"
            if leave(key) and folder not in ("/", prefix):
                after = f"{folder[:-1]}0"  # what follows "/"
                break
            if not leave(key):
                yield key, meta
        else:
            return


def noted_below(folder: Path) -> list[Path]:
    """The files below that were an object's."""
    notes = Path(str(note_of(folder)).removesuffix(".note"))
    return [
        folder / path.relative_to(notes).as_posix().removesuffix(".note")
        for path in (notes.rglob("*.note") if notes.is_dir() else ())
    ]


def size_of(path: Path) -> int:
    """The bytes of a file, here or in its store. Raises FileNotFoundError."""
    place = origin(path)
    if place is None or path.is_file():
        return path.stat().st_size
    if meta := store_at(place).meta(place.key):
        return meta.size
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def there(path: Path) -> bool:
    """Whether there is such a file, here or in its store."""
    if origin(path) is None:
        return path.is_file()
    try:
        return size_of(path) >= 0
    except FileNotFoundError:
        return False


def names_in(folder: Path, suffix: str) -> list[str]:
    """The names in a folder that end so, in order, here or in its store."""
    place = origin(folder)
    if place is None or not place.writable:
        return sorted(path.name for path in folder.glob(f"*{suffix}"))
    return sorted(name for name in names_at(place) if name.endswith(suffix))


def names_at(place: Place) -> Iterator[str]:
    """The names of the objects in a folder of a store."""
    prefix = f"{place.key}/" if place.key else ""
    for key, _ in bucket_of(place).listing(prefix, flat=True):
        yield key.removeprefix(prefix)


def content_of(path: Path, most: int) -> tuple[int, bytes]:
    """An object's size and bytes, no file made of it; no bytes where it has more than `most`.
    Raises FileNotFoundError.
    """
    place = origin(path)
    assert place is not None
    meta = store_at(place).meta(place.key)
    if meta is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if meta.size > most:
        return meta.size, b""
    return meta.size, store_at(place).read(place.key, 0, meta.size, meta)


def let_go(path: Path) -> None:
    """Removes what was fetched of a file that is not kept here."""
    if not kept_here(path):
        forget(path)


# --- to the store


def send(file: Path, path: Path) -> Meta | None:
    """Makes the object of `path` what `file` holds, seen by nobody before it is whole; returns its
    version, None where `path` stands for no place. Raises UserError.
    """
    place = origin(path)
    if place is None:
        return None
    store, size = bucket_of(place), file.stat().st_size
    if size <= store.PART:
        return Meta(size, store.put(place.key, file.read_bytes()))
    step = max(store.PART, -(-size // store.PARTS))
    upload = store.begin(place.key)

    def part(number: int) -> str:
        with file.open("rb") as content:
            content.seek((number - 1) * step)
            return store.put_part(place.key, upload, number, content.read(step))

    try:
        tags = at_once(part, list(range(1, -(-size // step) + 1)))
        return Meta(size, store.complete(place.key, upload, tags))
    except BaseException:
        store.abort(place.key, upload)
        raise


def send_folder(new: Path, path: Path) -> dict[Path, Meta]:
    """Makes the objects below the place of `path` what the folder `new` holds: its records (.json)
    last, and what was there before without them. Returns the versions by path.
    """
    place = origin(path)
    if place is None:
        return {}
    files = sorted(
        (file for file in new.rglob("*") if file.is_file()),
        key=lambda file: (file.suffix == RECORD, file),
    )
    remove_folder(path, keeping={path / file.relative_to(new) for file in files})
    sent = {}
    for file in files:
        final = path / file.relative_to(new)
        if meta := send(file, final):
            sent[final] = meta
    return sent


def sent(versions: dict[Path, Meta]) -> None:
    """Notes that files which were sent are in their places now."""
    for path, meta in versions.items():
        take_note(path, meta)


def send_changed(*paths: Path) -> None:
    """Sends files that grow, such as logs, as far as they have grown."""
    for path in paths:
        if origin(path) is None or not path.is_file():
            continue
        known = note(path)
        if known is None or known.size != path.stat().st_size:
            with keeping(path):
                copy = path.with_name(f"{path.name}.tmp-{os.getpid()}")
                shutil.copyfile(path, copy)  # it may grow meanwhile
            try:
                if meta := send(copy, path):
                    take_note(path, meta)
            finally:
                copy.unlink(missing_ok=True)


def kept_here(path: Path) -> bool:
    """Whether a file stays on this machine when it has been sent."""
    return origin(path) is None or path.suffix != SENT_AWAY


def remove(path: Path) -> None:
    """Removes a file's object, and the file."""
    if place := origin(path):
        bucket_of(place).remove([place.key])
        forget(path)
    path.unlink(missing_ok=True)


def remove_folder(path: Path, keeping: set[Path] | None = None) -> None:
    """Removes the objects below the place of a folder, its records first, but those of the paths
    `keeping` that are no records.
    """
    place = origin(path)
    if place is None:
        return
    store, home = bucket_of(place), path_of(place._replace(key=""))
    found = [key for key, _ in store.listing(f"{place.key}/")]
    records = [key for key in found if key.endswith(RECORD)]
    others = [
        key for key in found if not key.endswith(RECORD) and home / key not in (keeping or ())
    ]
    for keys in (records, others):
        store.remove(keys)
        for key in keys:
            note_of(home / key).unlink(missing_ok=True)
            CURRENT.discard(str(home / key))
