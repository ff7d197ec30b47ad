"""An S3 store on loopback, small enough to misbehave as it is told: what a real one answers is
tested with moto's server (tests/test_store_road.py).
"""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

KEY, SECRET = "AKIAOFTHETESTS", "a-secret-that-nobody-may-see"
STATUS = {
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "PreconditionFailed": 412,
    "InvalidRange": 416,
    "NotImplemented": 501,
    "SlowDown": 503,
    "ExpiredToken": 400,
    "AuthorizationHeaderMalformed": 400,
}


class Bucket:
    """What the server holds, and how it misbehaves: `faults` says of (method, key) what to do:
    an error's name, "drip", "cut", "reset" or None.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.asked: list[tuple[str, str]] = []
        self.faults = lambda method, key: None
        self.lock = threading.Lock()

    def texts(self) -> dict[str, str]:
        return {key: body.decode() for key, body in self.objects.items()}


def tag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


class Handler(BaseHTTPRequestHandler):
    """One bucket called `tests`."""

    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, *arguments: object) -> None:
        """Nothing."""

    def answer(self, status: int, body: bytes = b"", fault: str | None = None, **headers: str):
        self.send_response(status)
        size = headers.pop("content_length", str(len(body)))
        for name, value in {"content-length": size, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "drip":
            for place in range(len(body)):
                self.wfile.write(body[place : place + 1])
                time.sleep(0.05)
        else:
            self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
        if fault == "cut":
            self.close_connection = True

    def refuse(self, code: str, **headers: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        self.answer(STATUS.get(code, 403), body, **headers)

    def handle_one(self) -> None:
        parts = urlsplit(self.path)
        _, name, *rest = unquote(parts.path).split("/", 2)
        key, query = "".join(rest), parse_qs(parts.query, keep_blank_values=True)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.bucket.asked.append((self.command, key))
        fault = self.bucket.faults(self.command, key)
        if f"Credential={KEY}/" not in self.headers.get("authorization", ""):
            return self.refuse("InvalidAccessKeyId")
        if hashlib.sha256(body).hexdigest() != self.headers["x-amz-content-sha256"]:
            return self.refuse("XAmzContentSHA256Mismatch")
        if name != "tests":
            return self.refuse("NoSuchBucket")
        if fault == "reset":
            self.close_connection = True
            return self.connection.close()
        if fault and fault not in ("drip", "cut"):
            return self.refuse(fault)
        with self.bucket.lock:
            method = getattr(self, self.command.lower())
        return method(key, {name: values[0] for name, values in query.items()}, body, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one

    def head(self, key: str, query: dict, body: bytes, fault: str | None) -> None:
        if (found := self.bucket.objects.get(key)) is None:
            return self.refuse("NoSuchKey")
        return self.answer(200, content_length=str(len(found)), etag=tag(found))

    def get(self, key: str, query: dict, body: bytes, fault: str | None) -> None:
        if not key:
            return self.listing(query)
        if (found := self.bucket.objects.get(key)) is None:
            return self.refuse("NoSuchKey")
        if self.headers.get("if-match", tag(found)) != tag(found):
            return self.refuse("PreconditionFailed")
        if not (wanted := self.headers.get("range")):
            return self.answer(200, found, fault, etag=tag(found))
        first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        if first >= len(found):
            return self.refuse("InvalidRange")
        part = found[first : last + 1]
        said = f"bytes {first}-{first + len(part) - 1}/{len(found)}"
        return self.answer(206, part, fault, etag=tag(found), content_range=said)

    def listing(self, query: dict) -> None:
        """Two keys a page, so that every listing has several."""
        prefix, flat = query["prefix"], "delimiter" in query
        after = query.get("continuation-token") or query.get("start-after", "")
        keys = sorted(
            key
            for key in self.bucket.objects
            if key.startswith(prefix)
            and key > after
            and not (flat and "/" in key.removeprefix(prefix))
        )
        page, more = keys[:2], len(keys) > 2
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.bucket.objects[key])}</Size>"
            f"<ETag>{escape(tag(self.bucket.objects[key]))}</ETag></Contents>"
            for key in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        xmlns = "http://s3.amazonaws.com/doc/2006-03-01/"
        text = f'<ListBucketResult xmlns="{xmlns}">{items}{token}</ListBucketResult>'
        self.answer(200, text.encode())

    def put(self, key: str, query: dict, body: bytes, fault: str | None) -> None:
        if "uploadId" in query:
            self.bucket.uploads[query["uploadId"]][int(query["partNumber"])] = body
            return self.answer(200, etag=tag(body))
        found = self.bucket.objects.get(key)
        if self.headers.get("if-none-match") == "*" and found is not None:
            return self.refuse("PreconditionFailed")
        if (wanted := self.headers.get("if-match")) and (found is None or tag(found) != wanted):
            return self.refuse("PreconditionFailed")
        self.bucket.objects[key] = body
        return self.answer(200, etag=tag(body))

    def post(self, key: str, query: dict, body: bytes, fault: str | None) -> None:
        if "delete" in query:
            for name in ElementTree.fromstring(body).iterfind("Object/Key"):
                self.bucket.objects.pop(name.text or "", None)
            return self.answer(200, b"<DeleteResult/>")
        if "uploads" in query:
            upload = f"upload-{len(self.bucket.uploads)}"
            self.bucket.uploads[upload] = {}
            return self.answer(200, f"<R><UploadId>{upload}</UploadId></R>".encode())
        parts = self.bucket.uploads.pop(query["uploadId"])
        self.bucket.objects[key] = b"".join(parts[number] for number in sorted(parts))
        etag = escape(tag(self.bucket.objects[key]))
        return self.answer(200, f"<R><ETag>{etag}</ETag></R>".encode())

    def delete(self, key: str, query: dict, body: bytes, fault: str | None) -> None:
        self.bucket.uploads.pop(query.get("uploadId", ""), None)
        self.bucket.objects.pop(key, None)
        self.answer(204)


@contextmanager
def serving() -> Iterator[tuple[Bucket, str]]:
    """The bucket `tests` and the address of its store."""
    bucket = Bucket()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), {"bucket": bucket}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield bucket, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def environment(address: str, scratch: object) -> dict[str, str]:
    """What a process needs to know of the store."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "AWS_EC2_METADATA_DISABLED": "true",
        "C2SRT_STORE": str(scratch),
        "NO_PROXY": "127.0.0.1",
    }
