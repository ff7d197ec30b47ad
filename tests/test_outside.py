"""What comes from outside chooses no file, reads no key, and is shown as text: names, sentences,
reports; and an endpoint that never ends, or says too much.
"""

import asyncio
import json
import socket
import tarfile
import threading
import time
from contextlib import contextmanager, suppress

import numpy as np
import polars as pl
import pytest

from c2srt.backbone.clip import build_model
from c2srt.errors import UserError
from c2srt.evaluation.results import write_results
from c2srt.export.read import load_export
from c2srt.opened import BoundedHeader, open_npy, parse_json, read_json
from c2srt.relations.endpoint import MOST_BYTES, Endpoint, RequestError
from c2srt.shards import load_index
from c2srt.shown import csv_cell, file_name, markdown, printable, sentence, shown
from c2srt.tables.render import latex_escape
from tests.damaged_readers import COMPLETION
from tests.shard_folder import make_shards, make_vocabulary
from tests.tiny import MODEL_CONFIG, tiny_export

KEY = "sk-TOPSECRET-123456"
NAMES = ("Dog", "Cat", "Tree", "Car", "Cloud", "Boat", "Zebra", "House")


@pytest.mark.parametrize(
    "name",
    [
        "../../victim",
        "/tmp/victim",
        "test-0/../../x",
        "test-000000.tar",
        "train-000000",
        "test-",
        "test-1\n",
        "",
    ],
)
def test_a_shard_s_name_never_leaves_the_folder(tmp_path, name):
    make_shards(tmp_path, {"test": 4}, 4, make_vocabulary(6, 2))
    content = json.loads((tmp_path / "index.json").read_text())
    content["splits"]["test"][0]["name"] = name
    (tmp_path / "index.json").write_text(json.dumps(content))
    with pytest.raises(
        UserError, match="index.json has a shard .* make it again with `c2srt shard`"
    ):
        load_index(tmp_path)


def test_an_export_s_config_chooses_nothing_outside(tmp_path, monkeypatch):
    tiny_export(tmp_path / "model", tmp_path, NAMES, ["a {}."])
    path = tmp_path / "model/config.json"
    good = json.loads(path.read_text())
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a request left"))
    for part, key, value in (
        ("vision_cfg", "timm_model_name", "hf-hub:evil/model"),
        ("vision_cfg", "timm_model_name", "local-dir:../x"),
        ("text_cfg", "hf_model_name", "evil/model"),
        ("text_cfg", "hf_tokenizer_name", "evil/model"),
        ("vision_cfg", "layers", 10**9),
        ("vision_cfg", "width", 1 << 16),
        ("text_cfg", "mlp_ratio", float("nan")),
    ):
        content = json.loads(json.dumps(good))
        content["clip"]["config"][part][key] = value
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match="config.json describes no model"):
            load_export(tmp_path / "model")
    with pytest.raises(UserError, match="unknown"):
        build_model(MODEL_CONFIG | {"device_map": "auto"})


def test_what_json_may_be(tmp_path):
    for text in ("[" * 200_000, '{"a":' * 200 + "1" + "}" * 200, "9" * 5000, b"\xff"):
        with pytest.raises(ValueError):
            parse_json(text)
    assert parse_json("[" * 60 + "]" * 60)
    (tmp_path / "x.json").write_text('{"format": "\x1b[31m"}')
    with pytest.raises(UserError) as found:
        read_json(tmp_path / "x.json", "write it", version=1)
    assert str(found.value).isprintable()


def test_an_array_is_not_larger_than_its_file(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(4, np.float32))
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(content.replace(b"(4,)", b"(9,)"))
    with pytest.raises(UserError, match="has 144 bytes, where its header says 164"):
        open_npy(tmp_path / "x.npy", "write it", "f")
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(UserError, match="holds object"):
        open_npy(tmp_path / "o.npy", "write it", "f")


def test_a_tar_s_long_name_is_not_read_however_long_it_says_it_is():
    header = BoundedHeader("x")
    header.type, header.size = b"L", 1 << 40
    with pytest.raises(tarfile.ReadError, match="claims"):
        BoundedHeader.frombuf(header.tobuf(tarfile.GNU_FORMAT), "utf-8", "surrogateescape")


def test_text_is_shown_as_text():
    bad = "a\x1b[31m\nb\u202ec\x9b"
    assert all(
        printable(bad) == text and text.isprintable()
        for text in (str(UserError(bad)), sentence(bad))
    )
    assert (
        len(shown("x" * 1000)) == 60
        and len(sentence("x" * 5000)) < 700
        and shown([1, "\x1b"]) == r"[1, '\\x1b']".replace("\\\\", "\\")
    )
    assert [csv_cell(text) for text in ("=1+1", "@a", "-x", "-1.5", "a,b", "+1\n2")] == [
        "'=1+1",
        "'@a",
        "'-x",
        "-1.5",
        "a,b",
        "'+1\\n2",
    ]
    assert (
        markdown("<b>|x_y|[a](b)") == r"\<b\>\|x_y\|\[a\](b)"
        and printable("Zs\u00a0ok") == "Zs\u00a0ok"
    )
    assert (
        latex_escape(r"\input{/etc/passwd}$x^2~")
        == r"\textbackslash{}input\{/etc/passwd\}\$x\textasciicircum{}2\textasciitilde{}"
    )
    names = {file_name("語" * 300 + end) for end in "ab"}
    assert len(names) == 2 and all(len(name.encode()) < 200 and "/" not in name for name in names)


def test_a_category_s_name_is_no_formula(tmp_path):
    table = pl.DataFrame({"mid": ["/m/1"], "name": ["=HYPERLINK(1)"], "zsl_per_class": [0.5]})
    write_results(tmp_path, {}, table)
    assert "'=HYPERLINK(1)" in (tmp_path / "per_category.csv").read_text()


# --- an endpoint


@contextmanager
def server(answer):
    """A server on loopback that calls answer(connection) for each request; yields its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve():
        while not over.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.recv(1 << 16)
                with suppress(OSError):
                    answer(connection, over)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(1 << 16):
                        pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        over.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def asked(url: str, monkeypatch, timeout_s: float = 30.0):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    async def ask():
        endpoint = Endpoint("m", url, timeout_s)
        try:
            return await endpoint.ask({"messages": []})
        finally:
            await endpoint.close()

    return asyncio.run(ask())


def body(content: bytes, headers: str = "") -> bytes:
    return (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length:"
        f" {len(content)}\r\n{headers}\r\n"
    ).encode() + content


def drip(connection, over):
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    while not over.is_set():
        connection.sendall(b"1\r\n \r\n")
        time.sleep(0.05)


def flood(connection, over):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    for _ in range(2 * MOST_BYTES >> 20):
        connection.sendall(b" " * (1 << 20))


def packed(connection, over):
    connection.sendall(body(b"x", "Content-Encoding: gzip\r\n"))


@pytest.mark.parametrize(
    ("answer", "words"),
    [(drip, "no reply in time"), (flood, "more than 8 MiB"), (packed, "packed as 'gzip'")],
)
def test_an_answer_has_an_end_and_a_size(monkeypatch, answer, words):
    """Each would go on, or be unpacked, without a bound; none is a reply, and each may have been
    charged.
    """
    with server(answer) as url, pytest.raises(RequestError, match=words) as found:
        asked(url, monkeypatch, 2.0 if answer is drip else 30.0)
    assert found.value.billed


@pytest.mark.parametrize(
    "tokens", [float("nan"), -1, float("inf"), 1.5, True, "9", 10**12, None, [9]]
)
def test_usage_that_is_no_count_is_none(monkeypatch, tokens):
    content = json.dumps(
        COMPLETION | {"usage": {"prompt_tokens": tokens, "completion_tokens": 1}}
    ).encode()
    with server(lambda connection, over: connection.sendall(body(content))) as url:
        assert asked(url, monkeypatch).input_tokens is None


def test_a_key_in_escapes_is_masked_after_it_is_read(monkeypatch):
    content = (
        json.dumps(COMPLETION | {"model": "KEY"})
        .replace("KEY", KEY.replace("-", "\\u002d"))
        .encode()
    )
    assert KEY.encode() not in content
    with server(lambda connection, over: connection.sendall(body(content))) as url:
        assert asked(url, monkeypatch).model == "[key]"


def test_a_nested_answer_is_a_fault_not_the_end(monkeypatch):
    with (
        server(lambda connection, over: connection.sendall(body(b"[" * 200_000))) as url,
        pytest.raises(RequestError, match="no chat completion"),
    ):
        asked(url, monkeypatch)
