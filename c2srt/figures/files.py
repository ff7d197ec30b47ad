"""What a figure leaves in the folder of all figures."""

SUFFIXES = (".png", ".pdf")


def record_of(stem: str) -> str:
    """Its record (c2srt/artefact.py)."""
    return f"{stem}.json"


def pictures_of(stem: str) -> list[str]:
    return [f"{stem}{suffix}" for suffix in SUFFIXES]


def pieces_of(stem: str) -> str:
    """The name of what it keeps while it is not finished (c2srt.artefact.unfinished)."""
    return f"{stem}-pieces"
