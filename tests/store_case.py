"""A store for a test, and a process's memory of stores without what earlier tests left."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from c2srt.storage import credentials, mirror, stores, web
from tests.s3_server import Bucket, environment, serving


@contextmanager
def fresh_store(patch: pytest.MonkeyPatch, scratch: object) -> Iterator[Bucket]:
    """The bucket `tests` of a server of its own, as AWS_ENDPOINT_URL names it."""
    with serving() as (bucket, address):
        for name, value in environment(address, scratch).items():
            patch.setenv(name, value)
        for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        patch.setattr(web, "WAITS", (0.01, 0.01))
        forget()
        try:
            yield bucket
        finally:
            forget()


def forget() -> None:
    """Another process would know nothing."""
    stores.store_of.cache_clear()
    credentials.FOUND.clear()
    mirror.CURRENT.clear()
    for client in web.CLIENTS.values():
        client.close()
    web.CLIENTS.clear()
