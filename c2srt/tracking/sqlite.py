"""A sqlite file as the address of an MLflow store, and back."""

from pathlib import Path
from urllib.parse import unquote

PLAIN, WITH_DRIVER = "sqlite:///", "sqlite+pysqlite:///"


def address_of(path: Path) -> str:
    """The address of a file, absolute. In an address ? begins the options and % an escape, so both
    are escaped.
    """
    place = str(path.absolute())
    escaped = place.replace("%", "%25").replace("?", "%3F")
    # MLflow makes the folder that a plain address spells, escapes and all; with the driver's name
    # it leaves that to others.
    return f"{PLAIN}{place}" if escaped == place else f"{WITH_DRIVER}{escaped}"


def path_of(address: str) -> Path | None:
    """The file, absolute; None for an address of something else."""
    for prefix in (PLAIN, WITH_DRIVER):
        if address.startswith(prefix):
            return Path(unquote(address.removeprefix(prefix).partition("?")[0])).absolute()
    return None
