"""How files are downloaded, apart from downloads.py so that it can be checked without a client."""

from dataclasses import dataclass

from c2srt.errors import UserError
from c2srt.keys import Mark, key


@dataclass
class DownloadConfig:
    """How pictures are asked for by their URLs; times in seconds."""

    concurrency: int = key(16, "requests at a time, in each worker", mark=Mark.HARMLESS)
    timeout: float = key(
        30.0, "to connect, and between two pieces of an answer", unit="s", mark=Mark.HARMLESS
    )
    # for a whole exchange, redirects included: a dripping server holds no connection for ever
    total_timeout: float = key(
        300.0,
        "a whole exchange, redirects included: a dripping server holds no connection for ever",
        unit="s",
        mark=Mark.HARMLESS,
    )
    attempts: int = key(5, "tries of one image", mark=Mark.HARMLESS)
    backoff: float = key(
        1.0,
        "wait before the second try; doubles with each, with jitter",
        unit="s",
        mark=Mark.HARMLESS,
    )
    backoff_max: float = key(
        60.0, "longest wait, also for a server's Retry-After", unit="s", mark=Mark.HARMLESS
    )
    # also go to loopback, link-local and private addresses, where names and redirects lead
    private_hosts: bool = key(
        False,
        (
            "also go where names and redirects lead to loopback, link-local and "
            "private addresses. An address that a URL of the CSV names itself "
            "(http://10.0.0.5/…) is a mirror of your own and always asked. "
            "Passwords in URLs are masked in every file: ~/.netrc has them"
        ),
        mark=Mark.HARMLESS,
    )

    def __post_init__(self) -> None:
        for name in ("concurrency", "timeout", "total_timeout", "attempts"):
            if getattr(self, name) <= 0:
                raise UserError(f"download.{name}={getattr(self, name)} must be above 0")
