"""HTTP clients are made of the environment too: proxies and certificates.

What they cannot be made of is said in a sentence. And what an answer's header asks of them.
"""

import email.utils
import os
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import certifi

from c2srt.errors import UserError

PROXIES = ("all_proxy", "https_proxy", "http_proxy")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
OTHERS = ("no_proxy", "ssl_cert_file", "ssl_cert_dir")
UNDERSTOOD = ("http", "https")


@contextmanager
def making_client() -> Iterator[None]:
    """Round the making of a client. Raises UserError, naming the variable that is at fault.

    Libraries raise ValueError for a proxy's unknown scheme, ImportError for SOCKS without its
    package, an error of their own for an address that is none, OSError for certificates that are
    not there: whatever it is, the environment is the cause.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        names = {name.lower(): name for name, value in os.environ.items() if value}
        proxies = [names[name] for name in PROXIES if name in names]
        odd = [name for name in proxies if scheme(os.environ[name]) not in UNDERSTOOD]
        if odd and isinstance(error, (ValueError, ImportError)):
            raise UserError(
                f"{odd[0]}={without_user(os.environ[odd[0]])} is a proxy that is not understood "
                f"({scheme(os.environ[odd[0]])}:// is no scheme that can be used here): unset it, "
                "or write http://host:port"
            ) from error
        others = [f"{name}={without_user(os.environ[name])}" for name in proxies]
        others += [f"{names[name]}={os.environ[names[name]]}" for name in OTHERS if name in names]
        raise UserError(
            f"no HTTP client can be made with {' '.join(others) or 'this environment'} "
            f"({type(error).__name__}: {reason}): unset or correct it"
        ) from error


def authorities() -> ssl.SSLContext:
    """Who may vouch for a server: SSL_CERT_FILE or SSL_CERT_DIR, else certifi's list, which is
    there on a machine whose system has none. Raises OSError where a file is none.
    """
    return authorities_of(*(os.environ.get(name) or None for name in CERTIFICATES))


@cache
def authorities_of(file: str | None, folder: str | None) -> ssl.SSLContext:
    """Read once by a process: it takes as long as four photographs, and each shard that is
    downloaded has a client of its own.
    """
    if file or folder:
        return ssl.create_default_context(cafile=file, capath=None if file else folder)
    return ssl.create_default_context(cafile=certifi.where())


def scheme(proxy: str) -> str:
    """The scheme of a proxy's address; one without is http, as clients take it."""
    return proxy.partition("://")[0].lower() if "://" in proxy else "http"


def without_user(url: str) -> str:
    """The address without a name and password in it, and without its query."""
    head, slashes, rest = url.partition("://") if "://" in url else ("", "", url)
    return f"{head}{slashes}{rest.rpartition('@')[2].partition('?')[0].partition('#')[0]}"


def retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for (a number, or a date: RFC 9110, 10.2.3); None
    where it is absent or says nothing.
    """
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
