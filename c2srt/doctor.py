"""`c2srt doctor`: what stands on this machine, and what is missing for what.

Every line is a `Finding`; a question that cannot be answered is one, too, and ends no other.
"""

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import psutil

from c2srt import extras
from c2srt.check.nodes.facts import open_files
from c2srt.keys import key
from c2srt.redact import redacted
from c2srt.shared_keys import shared
from c2srt.surroundings import cores
from c2srt.tracking.config import TrackingConfig
from c2srt.version import VERSION

GIB = 2**30
OK, NOTE, LACKS, FAULT = "ok", "note", "lacks", "FAULT"
"""As wanted; worth knowing; not installed, some verbs need it; broken, nothing works without."""
LIBRARIES = ("torch", "torchvision", "open-clip-torch", "numpy", "polars", "hydra-core")
NEEDED_BY = {
    "train": "train, demo, tune, tables, shard and teacher on a Ray cluster",
    "mine": "relations mine, and new words that a language model relates",
    "figures": "figures, tables, demo, relations report",
    "serve": "a trained model behind the server of MLflow, where nothing is trained",
    "heic": "HEIC photographs in shard and predict",
    "hub": "CLIPs whose tokenizer lies on the Hugging Face hub",
}
SHARED_MEMORY = Path("/dev/shm")
LEAST_SHARED, LEAST_DISK, LEAST_FILES = 1.0, 5.0, 4096
"""GiB of /dev/shm that Ray's object store and the loaders want, GiB for a small run, open files."""
NETWORK_S = 5.0
HUB = "https://huggingface.co"


@dataclass
class Config:
    """Keys of `c2srt doctor`."""

    work: str = shared("work", ".")
    json: bool = key(False, "one JSON document instead of lines")


@dataclass(frozen=True)
class Finding:
    """One line: its heading, how it stands (OK, NOTE, LACKS, FAULT), and what was found."""

    what: str
    state: str
    found: str


def run(config: Config) -> int:
    """Prints what is found; returns 1 if something is broken that every verb needs."""
    findings = list(examine(config))
    if config.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        print("\n".join(line(finding) for finding in findings))
    return int(any(finding.state == FAULT for finding in findings))


def line(finding: Finding) -> str:
    return f"{finding.state:<6} {finding.what:<15} {finding.found}"


def examine(config: Config) -> Iterator[Finding]:
    """All findings, in the order of a page."""
    questions: dict[str, Callable[[], Iterator[Finding]]] = {
        "c2srt": package,
        "libraries": libraries,
        "device": device,
        "machine": machine,
        "disk": lambda: disk(Path(config.work)),
        "extras": extras_here,
        "Ray": ray_cluster,
        "MLflow": lambda: mlflow_store(config.work),
        "network": network,
    }
    for what, question in questions.items():
        try:
            yield from question()
        # whatever a broken library raises when it is looked at is what is to be shown
        except Exception as error:
            yield Finding(what, FAULT, f"{type(error).__name__}: {error}")


def package() -> Iterator[Finding]:
    home = Path(__file__).resolve().parent.parent
    yield Finding("c2srt", OK, f"{VERSION} in {home}")
    yield Finding("Python", OK, f"{platform.python_version()} at {sys.executable}")


def libraries() -> Iterator[Finding]:
    """The versions of what every verb needs."""
    for name in LIBRARIES:
        try:
            yield Finding(name, OK, version(name))
        except PackageNotFoundError:
            yield Finding(name, FAULT, "not installed: install the package again")


def device() -> Iterator[Finding]:
    """Imports torch, which shows whether it can be."""
    import torch

    from c2srt.check.case import cuda_fault

    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        memory = card.total_memory / GIB
        yield Finding(
            "GPU", OK, f"{number}: {card.name}, {memory:.0f} GiB, CUDA {torch.version.cuda}"
        )
    if torch.backends.mps.is_available():
        yield Finding("GPU", OK, "mps: Apple's")
    elif fault := cuda_fault():
        yield Finding("GPU", NOTE, f"none, the CPU works instead: {fault}")


def machine() -> Iterator[Finding]:
    """Cores, memory, and what the processes of a training share."""
    memory = psutil.virtual_memory()
    free, whole = memory.available / GIB, memory.total / GIB
    yield Finding(
        "machine",
        OK,
        f"{platform.system()}, {cores()} cores, {free:.1f} of {whole:.1f} GiB of memory free",
    )
    if SHARED_MEMORY.is_dir():
        shared_memory = shutil.disk_usage(SHARED_MEMORY).free / GIB
        state = OK if shared_memory >= LEAST_SHARED else NOTE
        wish = "" if state == OK else ": train wants 1 GiB (docker run --shm-size=8g)"
        yield Finding("/dev/shm", state, f"{shared_memory:.1f} GiB free{wish}")
    files = open_files()
    if files is not None:
        wish = "" if files >= LEAST_FILES else f": train wants {LEAST_FILES} (ulimit -n)"
        yield Finding("files", NOTE if wish else OK, f"{files} may be open at once{wish}")


def disk(work: Path) -> Iterator[Finding]:
    """Room where `work` lies, or will lie, and whether it can be written."""
    place = next(
        folder for folder in (work.absolute(), *work.absolute().parents) if folder.exists()
    )
    free = shutil.disk_usage(place).free / GIB
    if not os.access(place, os.W_OK):
        yield Finding("disk", NOTE, f"{place} cannot be written: choose another work=…")
    yield Finding("disk", OK if free >= LEAST_DISK else NOTE, f"{free:.1f} GiB free at {place}")


def extras_here() -> Iterator[Finding]:
    """What each extra of the package lacks, and the command that installs it."""
    for extra, verbs in NEEDED_BY.items():
        if lacking := extras.lacking(extra):
            yield Finding(
                f"[{extra}]",
                LACKS,
                f"{', '.join(lacking)} ({verbs}): {extras.install(extra)}",
            )
        else:
            yield Finding(f"[{extra}]", OK, verbs)


def ray_cluster() -> Iterator[Finding]:
    """Whether RAY_ADDRESS names a cluster; whether it answers is asked by the verb that joins."""
    if not extras.is_there("ray"):
        return
    address = os.environ.get("RAY_ADDRESS")
    where = f"RAY_ADDRESS={address}" if address else "no RAY_ADDRESS: each command starts its own"
    yield Finding("Ray", OK, f"{version('ray')}, {where}")


def mlflow_store(work: str) -> Iterator[Finding]:
    """The store that runs would be recorded in."""
    if extras.is_there("mlflow"):
        store = redacted(TrackingConfig().store(work, os.environ))
        yield Finding("MLflow", OK, f"{version('mlflow')}, runs are recorded in {store}")


def network() -> Iterator[Finding]:
    """Whether the hub answers, from which open_clip takes weights; HF_ENDPOINT names another."""
    hub = os.environ.get("HF_ENDPOINT", HUB)
    began = time.monotonic()
    try:
        with urlopen(Request(hub, method="HEAD"), timeout=NETWORK_S):
            pass
    except HTTPError:
        pass  # it answers
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        yield Finding(
            "network",
            NOTE,
            f"{hub} does not answer ({reason}): weights and data must lie on this machine",
        )
        return
    yield Finding("network", OK, f"{hub} answers in {time.monotonic() - began:.1f} s")
