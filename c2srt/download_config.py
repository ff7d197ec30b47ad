"""How files are downloaded, apart from downloads.py so that it can be checked without a client."""

import math
from dataclasses import dataclass
from typing import Any

from c2srt.errors import UserError
from c2srt.keys import Mark, key

POLITE = 10.0
"""Requests a second to a public site, whatever the number of workers; the 9 million of Open Images
take eleven days. Flickr says nothing of its limit for files; its API's is one a second, and what
it answers with 429 slows the pace further (c2srt/sites.py).
"""
LEAST_RATE = 0.001
LONGEST_CONTACT = 200


@dataclass
class DownloadConfig:
    """How pictures are asked for by their URLs; times in seconds."""

    concurrency: int = key(16, "requests at a time, in each worker", mark=Mark.HARMLESS)
    rate: Any = key(
        "polite",
        (
            "requests a second to a site, of all workers together, redirects and further tries "
            f"included; polite: {POLITE:g}, and no limit for a private address that a URL names "
            "itself, a mirror of your own. All hosts of a domain are one site "
            "(c1.staticflickr.com, farm2.staticflickr.com)"
        ),
        mark=Mark.HARMLESS,
    )
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
    attempts: int = key(
        5, "tries of one image; while its site pauses none is used up", mark=Mark.HARMLESS
    )
    backoff: float = key(
        1.0,
        "wait before the second try, and a site's first pause; doubles with each, with jitter",
        unit="s",
        mark=Mark.HARMLESS,
    )
    backoff_max: float = key(60.0, "longest of these waits", unit="s", mark=Mark.HARMLESS)
    patience: float = key(
        900.0,
        (
            "how long a site that answers HTTP 429, or fails again and again, is waited for until "
            "it answers as it should, its Retry-After included; then its images are unreachable"
        ),
        unit="s",
        mark=Mark.HARMLESS,
    )
    noai: str = key(
        "respect",
        (
            "files that come with X-Robots-Tag: noai or noimageai: respect (they are recorded as "
            "refused) | ignore"
        ),
        mark=Mark.HARMLESS,
    )
    contact: str = key(
        "",
        "an address or URL in the User-Agent, for whoever runs the servers that are asked",
        mark=Mark.HARMLESS,
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
        refuse_unless(self, "a number above 0", above_0, "timeout", "total_timeout")
        refuse_unless(self, "a number, at least 0", from_0, "backoff", "backoff_max", "patience")
        refuse_unless(self, "a whole number above 0", counts, "concurrency", "attempts")
        refuse_unless(
            self, f"polite, or requests a second, at least {LEAST_RATE:g}", a_rate, "rate"
        )
        refuse_unless(self, "respect or ignore", ("respect", "ignore").__contains__, "noai")
        refuse_unless(
            self,
            f"at most {LONGEST_CONTACT} printable ASCII letters without brackets",
            fits_a_header,
            "contact",
        )


@dataclass
class PassesConfig(DownloadConfig):
    """How a whole data set is downloaded."""

    passes: int = key(
        3, "times that what was unreachable is gone through, first included", mark=Mark.HARMLESS
    )
    pause: float = key(60.0, "between two passes", unit="s", mark=Mark.HARMLESS)
    arrived: float = key(
        1.0,
        "share of the images that is enough: no further pass when no more are unreachable",
        mark=Mark.HARMLESS,
    )
    most_unreachable: float = key(
        0.01,
        (
            "largest share of unreachable images that the index is written for. Above it the "
            "command ends with a report, and run again it asks for them again"
        ),
        mark=Mark.HARMLESS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unless(self, "a whole number above 0", counts, "passes")
        refuse_unless(self, "a number, at least 0", from_0, "pause")
        refuse_unless(self, "a share, 0…1", a_share, "arrived", "most_unreachable")


def refuse_unless(config: object, what: str, fits, *names: str) -> None:
    """Raises UserError for the first of these keys whose value is not `what`."""
    for name in names:
        if not fits(value := getattr(config, name)):
            raise UserError(f"download.{name}={value!s} must be {what}")


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def above_0(value: Any) -> bool:
    return is_number(value) and value > 0


def from_0(value: Any) -> bool:
    return is_number(value) and value >= 0


def counts(value: Any) -> bool:
    return above_0(value) and isinstance(value, int)


def a_rate(value: Any) -> bool:
    return value == "polite" or is_number(value) and value >= LEAST_RATE


def a_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def fits_a_header(value: Any) -> bool:
    """Whether it can stand in a comment of the User-Agent (RFC 9110, 5.6.5) as it is."""
    plain = isinstance(value, str) and value.isascii() and value.isprintable()
    return plain and len(value) <= LONGEST_CONTACT and not set(value) & set("()\\")
