"""The optional parts of the installation: which library each extra brings, and the sentence for
whoever lacks one.

The table is that of pyproject.toml by the names that are imported (tests/test_install.py compares
them). Standard library only.
"""

import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from urllib.parse import urlsplit
from urllib.request import url2pathname

EXTRAS = {
    "train": ("deepspeed", "ray", "mlflow", "pynvml", "torch_geometric", "matplotlib", "scipy"),
    "mine": ("openai",),
    "figures": ("matplotlib", "pytorch_grad_cam"),
    "serve": ("mlflow",),
    "heic": ("pillow_heif",),
    "hub": ("transformers",),
}
WHOLE = "all"
"""The extra that brings all of them."""


def extra_of(library: str) -> str | None:
    """The extra that brings a library, the first where several do; None for any other library."""
    return next((extra for extra, names in EXTRAS.items() if library in names), None)


def is_there(library: str) -> bool:
    """Whether a library could be imported; it isn't."""
    return find_spec(library) is not None


def lacking(extra: str) -> list[str]:
    """The libraries of an extra that are not installed."""
    return [library for library in EXTRAS[extra] if not is_there(library)]


def missing(error: ModuleNotFoundError) -> str | None:
    """What to install for a library that was not found, as a sentence; None if no extra has it."""
    library = (error.name or "").partition(".")[0]
    extra = extra_of(library)
    if extra is None:
        return None
    return f"{library} is not installed, which this needs: run `{install(extra)}`"


def install(extra: str) -> str:
    """The command that adds an extra to this installation: from the package index, or from the
    clone or file that it came from (PEP 610).
    """
    source = source_of()
    if source is None:
        return f"pip install {shlex.quote(f'c2srt[{extra}]')}"
    url, folder, editable = source
    if folder:
        path = url2pathname(urlsplit(url).path)
        return f"pip install {'-e ' if editable else ''}{shlex.quote(f'{path}[{extra}]')}"
    return f"pip install {shlex.quote(f'c2srt[{extra}] @ {url}')}"


def source_of() -> tuple[str, bool, bool] | None:
    """The address that this package was installed from, whether it is a folder, and whether that
    is the code that runs; None for a package index or an unknown place.
    """
    try:
        read = distribution("c2srt").read_text
    except PackageNotFoundError:
        return None
    text = read("direct_url.json")
    if text is None:
        return None
    found = json.loads(text)
    folder = found.get("dir_info")
    return found["url"], folder is not None, bool((folder or {}).get("editable"))
