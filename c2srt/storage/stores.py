"""The stores: an S3 bucket (of Amazon, or wherever AWS_ENDPOINT_URL leads: MinIO, Ceph, R2, …), and
a web server, which is read by names that are known.

A key is what stands behind the bucket or host. Every method raises UserError where the store
refuses, NoAnswer where it does not answer.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Protocol
from urllib.parse import urlsplit
from xml.etree import ElementTree

from c2srt.errors import UserError
from c2srt.scratch import Meta, Place
from c2srt.storage.credentials import HOW, credentials, renewed, setting
from c2srt.storage.signing import encoded, query_of, signed
from c2srt.storage.web import LONGER, Answer, Ask, answered

LISTING_BYTES = 8 << 20
EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
UNKNOWN = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthFailure")
MOVED = ("PermanentRedirect", "AuthorizationHeaderMalformed", "TemporaryRedirect")


class Changed(UserError):
    """The object is another one than when it was first seen."""


class Taken(Exception):
    """The object is there already, or was changed meanwhile: it was not written."""


class NoConditions(Exception):
    """The store has no conditional writes."""


class Store(Protocol):
    """What can be read."""

    def meta(self, key: str) -> Meta | None:
        """An object's size and tag; None if it is not there."""
        ...

    def read(self, key: str, offset: int, size: int, meta: Meta) -> bytes:
        """Bytes `offset` … `offset + size − 1` of it. Raises Changed if it is no longer `meta`."""
        ...


@lru_cache(maxsize=64)
def store_of(scheme: str, bucket: str) -> "S3 | Web":
    """The store of a place."""
    return S3(bucket) if scheme == "s3" else Web(scheme, bucket)


def part_of(place: Place, answer: Answer, offset: int, size: int, meta: Meta) -> bytes:
    """The bytes of an answered range. Raises Changed, UserError if it is another range, or the
    whole.
    """
    if answer.status == 412:
        raise changed(place)
    if answer.status == 200 and size != meta.size:
        raise UserError(
            f"{place.scheme}://{place.bucket} sends files as a whole only, and pieces of them are"
            " read: take a server that answers ranges, or copy the files to this machine"
        )
    said = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("content-range", ""))
    if answer.status == 416 or said and said[3] not in ("*", str(meta.size)):
        raise changed(place)
    if answer.status == 206 and said and int(said[1]) != offset or len(answer.body) != size:
        raise UserError(
            f"{place} gives {len(answer.body):,} bytes where {size:,} were asked for: it is cut"
            " short, or changed while it was read; run the same command again"
        )
    if meta.tag and tag_of(answer.headers) not in ("", meta.tag):
        raise changed(place)
    return answer.body


def changed(place: Place) -> Changed:
    return Changed(
        f"{place} was changed while it was read: run the same command again, and let nothing write"
        " there meanwhile"
    )


def tag_of(headers: Mapping[str, str]) -> str:
    return headers.get("etag") or headers.get("last-modified") or ""


def as_long_as(meta: Meta) -> dict[str, str]:
    """The header by which a server refuses to send of another version."""
    return {"if-match": meta.tag} if meta.tag.startswith('"') else {}


def wanted(offset: int, size: int) -> dict[str, str]:
    return {"range": f"bytes={offset}-{offset + size - 1}"}


class Web:
    """A web server, read by names that are known: it lists nothing and takes nothing."""

    def __init__(self, scheme: str, host: str) -> None:
        self.scheme, self.host = scheme, host

    def place(self, key: str) -> Place:
        return Place(self.scheme, self.host, key)

    def ask(self, method: str, key: str, headers: Mapping[str, str], most: int) -> Answer:
        """Raises UserError unless the answer is one of success, 404, 412 or 416."""
        url, place = f"{self.scheme}://{self.host}/{encoded(key)}", self.place(key)
        answer = answered(lambda: Ask(method, url, headers, most=most), f"{place} cannot be read")
        if not answer.good and answer.status not in (404, 410, 412, 416):
            raise UserError(
                f"{place} cannot be read: the server answers with status {answer.status}"
            )
        return answer

    def meta(self, key: str) -> Meta | None:
        answer = self.ask("HEAD", key, {}, 0)
        if answer.status in (404, 410):
            return None
        size = answer.headers.get("content-length", "")
        if not size.isdecimal():
            raise UserError(
                f"{self.place(key)} cannot be read: the server does not say how long it is"
            )
        return Meta(int(size), tag_of(answer.headers))

    def read(self, key: str, offset: int, size: int, meta: Meta) -> bytes:
        if not size:
            return b""
        answer = self.ask("GET", key, wanted(offset, size) | as_long_as(meta), size)
        return part_of(self.place(key), answer, offset, size, meta)


class S3:
    """A bucket."""

    PART = 16 << 20
    """Bytes that are sent at a time; a larger object is sent in parts."""
    PARTS = 9_000
    """S3 takes 10,000 at most."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self.region = setting("region") or "us-east-1"
        given = setting("endpoint_url")
        if given:
            parts = urlsplit(given)
            if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
                raise UserError(
                    "AWS_ENDPOINT_URL is no address of a store: write http(s)://host:port, without"
                    " a password"
                )
            self.scheme, self.host = parts.scheme, parts.netloc
            self.path = f"{parts.path.rstrip('/')}/{bucket}"
        else:
            dotted = "." in bucket  # no certificate is for a.b.s3.….amazonaws.com
            self.scheme, self.path = "https", f"/{bucket}" if dotted else ""
            self.host = f"{'' if dotted else f'{bucket}.'}s3.{self.region}.amazonaws.com"

    def place(self, key: str) -> Place:
        return Place("s3", self.bucket, key)

    def ask(
        self,
        method: str,
        key: str = "",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        most: int = 1 << 20,
    ) -> Answer:
        """The answer, whatever it is."""
        path, arguments = f"{self.path}/{encoded(key)}", query_of(query or {})
        reads = method in ("GET", "HEAD")

        def make() -> Ask:
            who = credentials()
            full = signed(who, self.region, method, self.host, path, arguments, headers or {}, body)
            url = f"{self.scheme}://{self.host}{path}{f'?{arguments}' if arguments else ''}"
            return Ask(method, url, full, body, most)

        what = f"{self.place(key)} cannot be {'read' if reads else 'written'}"
        waits = () if reads else LONGER
        answer = answered(make, what, waits)
        if answer.code in EXPIRED and renewed():
            answer = answered(make, what, waits)
        return answer

    def refused(self, answer: Answer, key: str, done: str) -> UserError:
        """What a refusal means, as a sentence; `done`: read, written, listed, removed."""
        code, place = answer.code or f"status {answer.status}", self.place(key)
        if code == "NoSuchBucket":
            return UserError(
                f"the bucket {self.bucket} does not exist at {self.host}: make it, or correct the"
                " address (AWS_ENDPOINT_URL says which store is asked)"
            )
        if code in EXPIRED:
            return UserError(
                f"{place} cannot be {done}: the credentials have expired; renew them and run the"
                " same command again"
            )
        if code in UNKNOWN:
            return UserError(f"{place} cannot be {done}: the store does not know the key: {HOW}")
        if code in MOVED or answer.status in (301, 307):
            region = answer.headers.get("x-amz-bucket-region", "…")
            return UserError(
                f"{place} cannot be {done}: the bucket is in another region than {self.region}: set"
                f" AWS_REGION={region}"
            )
        if code == "RequestTimeTooSkewed":
            return UserError(f"{place} cannot be {done}: the clock of this machine is wrong")
        if answer.status in (401, 403):
            return UserError(
                f"{place} may not be {done} with these credentials ({code}): ask for the right, or"
                " choose another place"
            )
        return UserError(f"{place} cannot be {done}: the store refuses it ({code})")

    def meta(self, key: str) -> Meta | None:
        answer = self.ask("HEAD", key)
        if answer.status == 404:
            return None
        if not answer.good:  # an answer to HEAD has no words
            words = self.ask("GET", key, headers=wanted(0, 1))
            answer = self.ask("HEAD", key) if words.good else words
        if not answer.good:
            raise self.refused(answer, key, "read")
        return Meta(int(answer.headers.get("content-length", 0)), tag_of(answer.headers))

    def read(self, key: str, offset: int, size: int, meta: Meta) -> bytes:
        if not size:
            return b""
        headers = wanted(offset, size) | as_long_as(meta)
        answer = self.ask("GET", key, headers=headers, most=size)
        if answer.status == 404 and answer.code != "NoSuchBucket":
            raise changed(self.place(key))
        if not answer.good and answer.status not in (412, 416):
            raise self.refused(answer, key, "read")
        return part_of(self.place(key), answer, offset, size, meta)

    def listing(
        self, prefix: str, after: str = "", flat: bool = False
    ) -> Iterator[tuple[str, Meta]]:
        """The objects whose keys begin with `prefix`, in order, those behind the key `after`; with
        `flat` none of folders below.
        """
        query = {"list-type": "2", "prefix": prefix} | ({"delimiter": "/"} if flat else {})
        begin = {"start-after": after} if after else {}
        while True:
            answer = self.ask("GET", query=query | begin, most=LISTING_BYTES)
            if not answer.good:
                raise self.refused(answer, prefix, "listed")
            tree = ElementTree.fromstring(answer.body)
            for each in tree.iterfind("{*}Contents"):
                tag, size = each.findtext("{*}ETag", ""), int(each.findtext("{*}Size", "0"))
                yield each.findtext("{*}Key", ""), Meta(size, tag)
            token = tree.findtext("{*}NextContinuationToken", "")
            if not token:
                return
            begin = {"continuation-token": token}

    def put(self, key: str, body: bytes, *, new: bool = False, instead: str = "") -> str:
        """Writes an object; returns its tag. With `new`, or a tag `instead` of which it goes:
        raises Taken if another one is there, NoConditions if the store cannot tell.
        """
        headers = {"if-none-match": "*"} if new else {"if-match": instead} if instead else {}
        answer = self.ask("PUT", key, headers=headers, body=body)
        if headers and (answer.status in (409, 412) or instead and answer.status == 404):
            raise Taken
        if headers and (answer.status == 501 or answer.code == "NotImplemented"):
            raise NoConditions
        if not answer.good:
            raise self.refused(answer, key, "written")
        return answer.headers.get("etag", "")

    def begin(self, key: str) -> str:
        """Begins to write an object in parts; returns the name of that upload."""
        return self.told("POST", key, {"uploads": ""}).findtext("{*}UploadId", "")

    def put_part(self, key: str, upload: str, number: int, body: bytes) -> str:
        """Sends part `number`, from 1; returns its tag."""
        answer = self.ask("PUT", key, {"uploadId": upload, "partNumber": str(number)}, body=body)
        if not answer.good:
            raise self.refused(answer, key, "written")
        return answer.headers.get("etag", "")

    def complete(self, key: str, upload: str, tags: list[str]) -> str:
        """Makes the object of its parts; returns its tag. Nothing of it was seen before."""
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"
            for number, tag in enumerate(tags, 1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        return self.told("POST", key, {"uploadId": upload}, body).findtext("{*}ETag", "")

    def abort(self, key: str, upload: str) -> None:
        """Lets the parts that were sent go; a failure of that is not worth a word."""
        self.ask("DELETE", key, {"uploadId": upload})

    def told(
        self, method: str, key: str, query: Mapping[str, str], body: bytes = b""
    ) -> ElementTree.Element:
        """What the store says in XML, which may be an error under a status of success."""
        answer = self.ask(method, key, query, body=body)
        if not answer.good or answer.code:
            raise self.refused(answer, key, "written")
        return ElementTree.fromstring(answer.body)

    def remove(self, keys: list[str]) -> None:
        """Removes objects; those that are not there, too."""
        for start in range(0, len(keys), 1000):
            some = keys[start : start + 1000]
            names = "".join(f"<Object><Key>{escaped(key)}</Key></Object>" for key in some)
            body = f"<Delete><Quiet>true</Quiet>{names}</Delete>".encode()
            digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
            answer = self.ask("POST", "", {"delete": ""}, {"content-md5": digest}, body)
            if not answer.good or answer.code:
                raise self.refused(answer, some[0], "removed")


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
