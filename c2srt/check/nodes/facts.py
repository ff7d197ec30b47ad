"""What a node says of itself without torch: versions, and what is free. Standard library only."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import c2srt
from c2srt.code import source_hash
from c2srt.surroundings import cores
from c2srt.version import VERSION

LIBRARIES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "numpy",
    "deepspeed",
    "ray",
    "triton",
)
SHARED_MEMORY = Path("/dev/shm")


def versions(commit: str = "") -> dict[str, str]:
    """This package and its source, Python, the libraries, the GPUs and their driver; "none" for
    what is not there.
    """
    found = {
        "c2srt": VERSION,
        "source": source_hash(),
        "commit": commit or git_commit(),
        "Python": platform.python_version(),
    }
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    cards = nvidia("name")
    return found | {
        "GPUs": ", ".join(f"{cards.count(card)} × {card}" for card in sorted({*cards})) or "none",
        "driver": (nvidia("driver_version") or ["none"])[0],
    }


def machine(temporary: str) -> dict[str, float | int | str | None]:
    """Bytes free in shared memory and in the temporary folder, open files, cores."""
    return {
        "shared_memory": free(SHARED_MEMORY),
        "temporary": free(Path(temporary)),
        "temporary_folder": temporary,
        "files": open_files(),
        "cores": cores(),
    }


def free(folder: Path) -> int | None:
    """Bytes that may still be written; None where there is no such folder, or it cannot be."""
    try:
        return shutil.disk_usage(folder).free if os.access(folder, os.W_OK) else None
    except OSError:
        return None


def open_files() -> int | None:
    """The limit of open files of this process; None where there is no such limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def nvidia(question: str) -> list[str]:
    """What nvidia-smi says, a line a GPU; [] where there is none."""
    asked = ["nvidia-smi", f"--query-gpu={question}", "--format=csv,noheader"]
    return [line.strip() for line in said(asked).splitlines() if line.strip()]


def git_commit() -> str:
    """The commit of the source tree, "unknown" where it has none."""
    return said(["git", "-C", str(root()), "rev-parse", "--short=12", "HEAD"]).strip() or "unknown"


def said(command: list[str]) -> str:
    """What a command prints; "" where it fails."""
    try:
        told = subprocess.run(
            command, capture_output=True, timeout=20, encoding="utf-8", errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout if told.returncode == 0 else ""


def root() -> Path:
    return Path(c2srt.__file__).parent.parent
