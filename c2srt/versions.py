"""Which versions made a record: of this package, of Python, and of the libraries that compute.

They stand beside what decides an artefact, never in it: another version makes nothing anew.
Standard library only.
"""

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from c2srt.shown import shown
from c2srt.version import VERSION

VERSIONS = "versions"
"""The key of a record."""
LIBRARIES = ("torch", "torchvision", "open_clip_torch", "numpy", "deepspeed")


def versions() -> dict[str, str]:
    """{"c2srt": …, "python": …, "torch": …, …}; a library that is not installed is left out."""
    found = {name: version_of(name) for name in LIBRARIES}
    libraries = {name: number for name, number in found.items() if number is not None}
    return {"c2srt": VERSION, "python": platform.python_version(), **libraries}


@cache
def version_of(library: str) -> str | None:
    """The installed version, without importing the library; None if there is none."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def others(written: Mapping[str, str]) -> str:
    """The versions of a record that are not those of this process, as "torch 2.11.0 (now 2.15.0),
    …"; "" if all are the same. A record without versions says nothing, nor does one of a library
    that only one of the two has.
    """
    now = versions()
    return ", ".join(
        f"{name} {shown(written[name])} (now {now[name]})"
        for name in now
        if written.get(name, now[name]) != now[name]
    )
