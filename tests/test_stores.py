"""Stores: addresses and paths, signatures, and what a store does wrong, each a sentence."""

import os
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from c2srt.errors import LoaderFailed, UserError
from c2srt.scratch import Meta, Place, beside, named, note_of, origin, path_of, place_of, root
from c2srt.storage import web
from c2srt.storage.credentials import Credentials, credentials, setting
from c2srt.storage.ranges import open_ranges, start
from c2srt.storage.remote import RemoteFile
from c2srt.storage.signing import signed
from c2srt.storage.stores import S3, Changed, NoConditions, Taken, Web
from tests.s3_server import KEY, SECRET
from tests.store_case import forget, fresh_store


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    with fresh_store(monkeypatch, tmp_path / "kept") as bucket:
        yield bucket


# --- addresses and paths


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket",
        "s3://bucket/a",
        "s3://my.bucket-1/a/b c/é#?.tar",
        "https://host:8080/a/b.json",
    ],
)
def test_a_path_tells_its_address_wherever_it_lies(url, tmp_path, monkeypatch):
    monkeypatch.setenv("C2SRT_STORE", str(tmp_path))
    place = place_of(url)
    assert str(place) == url and origin(path_of(place)) == place
    monkeypatch.setenv("C2SRT_STORE", "/elsewhere")
    assert origin(tmp_path / path_of(place).relative_to(root())) == place


def test_an_address_without_blanks_is_what_people_read(tmp_path, monkeypatch):
    monkeypatch.setenv("C2SRT_STORE", str(tmp_path))
    path = path_of(place_of("s3://bucket/a/b.json"))
    assert named(f"out={path}, {path.parent}/c") == "out=s3://bucket/a/b.json, s3://bucket/a/c"
    assert str(UserError(f"{path} is damaged")) == "s3://bucket/a/b.json is damaged"
    assert named("/plain/path") == "/plain/path"


@pytest.mark.parametrize(
    "url, why",
    [
        ("gs://bucket/a", "no store is known by gs://"),
        ("s3://", "'' is no bucket"),
        ("s3:///a", "'' is no bucket"),
        ("s3://Bucket/a", "'Bucket' is no bucket"),
        ("s3://key:secret@bucket/a", "an address holds no password"),
        ("https://me:hush@host/a", "an address holds no password"),
        ("https://host/a?X-Amz-Signature=1", "an address holds no password, key or query"),
        ("s3://bucket/a/../b", r"'\.\.' in it can be no name"),
        ("s3://bucket/a//b", "'' in it can be no name"),
        ("s3://bucket/a\nb", "can be no name"),
        (f"s3://bucket/{'a' * 300}", "can be no name"),
    ],
)
def test_what_is_no_address_of_a_store(url, why):
    with pytest.raises(ValueError, match=why):
        place_of(url)


def test_what_never_leaves_a_machine_has_no_address(tmp_path, monkeypatch):
    monkeypatch.setenv("C2SRT_STORE", str(tmp_path))
    folder = path_of(Place("s3", "bucket", "w/train"))
    for name in ("lock", "a.json.tmp-123", "b.tmp-writing/complete.json", "staging/train/x"):
        assert origin(folder / name) is None
    assert origin("/a/plain/path") is None and origin(folder / "train.json")
    assert note_of(folder).parts[-4:] == ("c2srt-notes", "s3+bucket", "w", "train.note")
    assert origin(beside(folder)) is None and beside(Path("/a/b")) == Path("/a/b")


# --- who asks


def test_the_signature_is_that_of_the_documentation():
    """The example "GET Object" of Amazon's description of Signature Version 4."""
    headers = signed(
        Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        "us-east-1",
        "GET",
        "examplebucket.s3.amazonaws.com",
        "/test.txt",
        "",
        {"Range": "bytes=0-9"},
        b"",
        datetime(2013, 5, 24, tzinfo=UTC),
    )
    assert headers["authorization"].endswith(
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


def test_credentials_come_from_the_environment_then_from_the_profile(tmp_path):
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id=a\naws_secret_access_key=b\n"
        "[other]\naws_access_key_id=c\naws_secret_access_key=d\naws_session_token=e\n"
    )
    (tmp_path / "config").write_text("[profile other]\nregion=eu-west-9\nendpoint_url=http://h:1\n")
    files = {
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    found = {}
    for profile, more in (
        ("default", {}),
        ("other", {}),
        ("other", {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}),
    ):
        forget()
        who = credentials(files | {"AWS_PROFILE": profile} | more)
        assert who is not None and "y" not in repr(who)
        found[who.key] = (who.secret, who.token)
    forget()
    assert found == {"a": ("b", None), "c": ("d", "e"), "x": ("y", None)}
    other = files | {"AWS_PROFILE": "other"}
    assert setting("region", other) == "eu-west-9"
    assert setting("region", other | {"AWS_REGION": "us-west-1"}) == "us-west-1"
    assert setting("endpoint_url", other) == "http://h:1"


# --- what a store does


def test_objects_are_written_read_listed_and_removed(bucket):
    store, body = S3("tests"), bytes(range(256)) * 40
    for key in ("a/é x#&<1>.bin", "a/b/c", "a/d", "ab", "b"):
        store.put(key, body)
    meta = store.meta("a/é x#&<1>.bin")
    assert meta and meta.size == len(body) and store.meta("none") is None
    assert store.read("a/é x#&<1>.bin", 100, 300, meta) == body[100:400]
    assert [key for key, _ in store.listing("a/")] == ["a/b/c", "a/d", "a/é x#&<1>.bin"]
    assert [key for key, _ in store.listing("a/", flat=True)] == ["a/d", "a/é x#&<1>.bin"]
    assert [key for key, _ in store.listing("", after="a/d")] == ["a/é x#&<1>.bin", "ab", "b"]
    store.remove(["a/é x#&<1>.bin", "a/d", "none"])
    assert sorted(bucket.objects) == ["a/b/c", "ab", "b"]


def test_an_object_is_written_only_if_there_is_none_or_instead_of_one(bucket):
    store = S3("tests")
    first = store.put("lock", b"1", new=True)
    with pytest.raises(Taken):
        store.put("lock", b"2", new=True)
    second = store.put("lock", b"3", instead=first)
    with pytest.raises(Taken):
        store.put("lock", b"4", instead=first)
    assert second != first and bucket.objects == {"lock": b"3"}
    bucket.faults = lambda method, key: "NotImplemented" if method == "PUT" else None
    with pytest.raises(NoConditions):
        store.put("other", b"5", new=True)


def test_ranges_are_read_side_by_side_in_the_version_that_was_opened(bucket):
    body = os.urandom(50_000)
    bucket.objects["w/x-000000.tar"] = body
    source = open_ranges(path_of(Place("s3", "tests", "w/x-000000.tar")))
    assert isinstance(source, RemoteFile) and source.size == len(body)
    spans = [(source, at, 700) for at in range(0, 49_000, 5_000)]
    assert [bytes(part) for part in start(spans).wait()] == [body[a : a + n] for _, a, n in spans]
    with pytest.raises(UserError, match="w/x-000000.tar has 50,000 bytes, where its index says"):
        source.read(49_000, 2_000)
    bucket.objects["w/x-000000.tar"] = body[::-1]
    with pytest.raises(Changed, match=r"s3://tests/w/x-000000\.tar was changed while it was read"):
        source.read(0, 10)
    bucket.objects.clear()
    with pytest.raises(Changed):
        source.read(0, 10)
    with pytest.raises(FileNotFoundError):
        open_ranges(path_of(Place("s3", "tests", "w/none")))


@pytest.mark.parametrize(
    "fault, said",
    [
        ("ExpiredToken", "the credentials have expired"),
        ("InvalidAccessKeyId", "the store does not know the key"),
        ("AccessDenied", r"may not be (read|written|listed) with these credentials"),
        ("AuthorizationHeaderMalformed", "is in another region than us-east-1"),
        ("RequestTimeTooSkewed", "the clock of this machine is wrong"),
        ("NoSuchBucket", "the bucket tests does not exist at 127.0.0.1"),
        ("Odd", r"(may not be|the store refuses it \(Odd\))"),
    ],
)
def test_a_refusal_is_one_sentence_without_the_secret(fault, said, bucket):
    store = S3("tests")
    meta = Meta(5, store.put("a", b"hello"))
    bucket.faults = lambda method, key: fault
    for work in (
        lambda: store.read("a", 0, 5, meta),
        lambda: store.put("a", b"x"),
        lambda: list(store.listing("")),
    ):
        with pytest.raises(UserError, match=said) as error:
            work()
        assert SECRET not in str(error.value) and KEY not in str(error.value)


def test_credentials_that_are_renewed_in_time_are_taken(bucket, monkeypatch, tmp_path):
    """As a tool does that writes ~/.aws/credentials anew."""
    file = tmp_path / "credentials"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    file.write_text(f"[default]\naws_access_key_id={KEY}\naws_secret_access_key=old\n")
    store, now = S3("tests"), []
    meta = Meta(5, store.put("a", b"hello"))

    def expired(method: str, key: str) -> str | None:
        file.write_text(f"[default]\naws_access_key_id={KEY}\naws_secret_access_key=new\n")
        now.append(method)
        return "ExpiredToken" if len(now) < 3 else None

    bucket.faults = expired
    assert store.meta("a") == meta and now == ["HEAD", "GET", "GET", "HEAD"]
    assert credentials().secret == "new"


def test_a_bucket_that_is_not_there_and_no_credentials(bucket, monkeypatch):
    with pytest.raises(UserError, match="the bucket other does not exist at 127.0.0.1"):
        list(S3("other").listing(""))
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    forget()
    with pytest.raises(UserError, match="there are no credentials for the store: set AWS_ACC"):
        S3("tests").meta("a")


@pytest.mark.parametrize("fault", ["SlowDown", "reset", "cut"])
def test_what_passes_is_tried_again(fault, bucket):
    store = S3("tests")
    meta = Meta(5, store.put("a", b"hello"))
    left = [fault, fault]
    bucket.faults = lambda method, key: left.pop() if left else None
    assert store.read("a", 0, 5, meta) == b"hello" and not left


@pytest.mark.parametrize(
    "fault, said",
    [
        ("SlowDown", "status 503 SlowDown, 3 times"),
        ("reset", "3 times in"),
        ("cut", "its answer was cut short, 3 times"),
        ("drip", "it answers too slowly, 3 times"),
    ],
)
def test_what_does_not_pass_is_a_sentence_in_time(fault, said, bucket, monkeypatch):
    monkeypatch.setattr(web, "PATIENCE_S", 0.3)
    monkeypatch.setattr(web, "LEAST_RATE", 1 << 20)
    bucket.objects["a"] = b"h" * 50
    source = open_ranges(path_of(Place("s3", "tests", "a")))
    bucket.faults = lambda method, key: fault
    with pytest.raises(LoaderFailed, match=f"s3://tests/a cannot be read .*{said}"):
        source.read(0, 50)


def test_a_store_that_is_not_there(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="s3://tests/a cannot be read .*3 times in .*network"):
        S3("tests").meta("a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hush@127.0.0.1:9")
    with pytest.raises(UserError, match="is no address of a store") as error:
        S3("tests")
    assert "hush" not in str(error.value)


# --- web servers


class Plain(BaseHTTPRequestHandler):
    """A file `x` of ten bytes; `whole` says that it is always sent as a whole."""

    whole = False

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/x" else 404)
        self.send_header("content-length", "10")
        self.end_headers()

    def do_GET(self) -> None:
        wanted = self.headers.get("range", "")
        first, last = (0, 9) if self.whole else map(int, wanted.removeprefix("bytes=").split("-"))
        self.send_response(200 if self.whole else 206)
        if not self.whole:
            self.send_header("content-range", f"bytes {first}-{last}/10")
        self.send_header("content-length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(b"0123456789"[first : last + 1])

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.mark.parametrize("whole", [False, True])
def test_a_web_server_is_read_by_ranges_or_refused(whole, monkeypatch, bucket):
    monkeypatch.setattr(Plain, "whole", whole)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Plain)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        store = Web("http", f"127.0.0.1:{server.server_port}")
        meta = store.meta("x")
        assert meta == Meta(10, "") and store.meta("none") is None
        assert store.read("x", 0, 10, meta) == b"0123456789"
        if whole:
            with pytest.raises(UserError, match="sends files as a whole only"):
                store.read("x", 2, 3, meta)
        else:
            assert store.read("x", 2, 3, meta) == b"234"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
