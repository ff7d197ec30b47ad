"""sharding/urls.py against a real HTTP server that misbehaves in every way that a list of nine
million URLs does.
"""

import io

import polars as pl
import pytest
from PIL import Image

from c2srt.clients import retry_after
from c2srt.download_config import DownloadConfig
from c2srt.downloads import forbids_ai
from c2srt.errors import UserError
from c2srt.sharding.config import DataConfig
from c2srt.sharding.pack import ShardTask
from c2srt.sharding.urls import Downloader, UrlSource
from tests.image_server import GOOD, Handler, config, fetch, forget, row, running
from tests.raw_images import jpeg, md5


@pytest.fixture(scope="module")
def server():
    with running() as address:
        yield address


@pytest.fixture(autouse=True)
def fresh():
    forget()


def test_a_good_answer_is_checked_and_reduced(server):
    outcome = fetch(f"{server}/good.jpg", len(GOOD), md5(GOOD))
    assert (outcome.status, outcome.width, outcome.height) == ("ok", 384, 256)
    assert min(Image.open(io.BytesIO(outcome.jpeg)).size) == 256


@pytest.mark.parametrize("kind, tries", [("hiccup", 2), ("cutonce", 2), ("busy", 2)])
def test_what_passes_is_tried_again(server, kind, tries):
    assert fetch(f"{server}/{kind}.jpg", len(GOOD), md5(GOOD)).status == "ok"
    assert Handler.seen[kind] == tries


def test_retry_after_is_waited_for(server):
    fetch(f"{server}/busy.jpg")
    first, second = Handler.times["busy"]
    assert second - first >= 1


@pytest.mark.parametrize(
    "kind, status, reason, tries",
    [
        ("gone", "missing", "HTTP 404", 1),
        ("forbidden", "refused", "HTTP 403", 1),
        ("broken", "unreachable", "HTTP 503", 3),
        ("cut", "unreachable", "RemoteProtocolError", 3),
        ("silent", "unreachable", "ReadTimeout", 3),
        ("drip", "unreachable", "no end after", 3),
        ("page", "placeholder", "XML", 1),
        ("removed", "placeholder", "PNG", 1),
        ("grey", "placeholder", "PNG", 1),
        ("colourful", "placeholder", "PNG", 1),
        ("other", "size_mismatch", "the CSV says", 1),
        ("short", "size_mismatch", "the CSV says", 3),
        ("none", "empty", "0 bytes", 1),
        ("large", "too_large", "max_bytes", 1),
        ("loop", "refused", "redirect", 21),
        ("noai", "refused", "X-Robots-Tag: noai", 1),
    ],
)
def test_what_does_not_pass_has_its_status(server, kind, status, reason, tries):
    """With the size and MD5 of the CSV, as for real."""
    good = (
        GOOD if len(GOOD) < len(jpeg(1, 600, 400)) else GOOD[:-100]
    )  # so that "other" is never taken for a cut-off answer
    outcome = fetch(f"{server}/{kind}.jpg", len(good), md5(good))
    assert (
        (outcome.status, Handler.seen[kind]) == (status, tries)
        and reason in outcome.reason
        and not outcome.jpeg
    )


def test_files_that_are_not_for_us_are_taken_where_that_is_said(server):
    assert fetch(f"{server}/noai.jpg", noai="ignore").status == "ok"
    assert fetch(f"{server}/noaiother.jpg").status == "ok"


@pytest.mark.parametrize(
    "tag, forbids",
    [
        ("noai", True),
        ("all, NoImageAI", True),
        ("c2srt: noindex, noai", True),
        ("*: noai", True),
        ("otherbot: noindex, noai", False),
        ("noindex", False),
        ("unavailable_after: 25 Jun 2030 15:00:00 PST", False),
        ("", False),
    ],
)
def test_what_an_x_robots_tag_says(tag, forbids):
    assert forbids_ai(tag) is forbids


def test_whoever_runs_the_server_can_write_to_us(server):
    fetch(f"{server}/good.jpg", contact="https://example.org/us")
    assert Handler.agents == {"c2srt (image data set preparation; https://example.org/us)"}


def test_an_image_that_its_site_always_answers_with_429_costs_its_own_tries_only(server):
    with Downloader(config(concurrency=1, patience=600, backoff_max=0.1)) as downloader:
        rows = [row(f"{server}/{kind}.jpg") for kind in ("good", "never", "good", "never2", "good")]
        found = [outcome.status for _, outcome in downloader.all(rows)]
    assert found == ["ok", "unreachable", "ok", "unreachable", "ok"]
    assert Handler.seen["never"] == Handler.seen["never2"] == 3


def test_the_right_size_with_a_wrong_md5(server):
    assert fetch(f"{server}/good.jpg", len(GOOD), md5(b"else")).status == "md5_mismatch"


def test_without_size_and_md5_half_a_jpeg_is_corrupt(server):
    assert fetch(f"{server}/short.jpg").status == "corrupt"


@pytest.mark.parametrize(
    "url, status",
    [
        ("", "no_url"),
        ("ftp://127.0.0.1/x.jpg", "refused"),
        ("not a url", "refused"),
        ("file:///etc/passwd", "refused"),
        ("http://127.0.0.1:1/x.jpg", "unreachable"),
        (f"http://{'a' * 64}.example/x.jpg", "refused"),
        ("http://xn--/x.jpg", "refused"),
        ("http://xn--a-ecp.example/x.jpg", "refused"),
        ("http://\u0378.example/x.jpg", "refused"),
        ("http://a..b/x.jpg", "refused"),
        ("http://[::1/x.jpg", "refused"),
        ("http://127.0.0.1:99999/x.jpg", "unreachable"),
        ("http://127.0.0.1/\x00.jpg", "refused"),
    ],
)
def test_urls_that_lead_nowhere(url, status):
    outcome = fetch(url)
    assert outcome.status == status and outcome.reason


def test_a_redirect_to_nowhere_and_an_odd_fault_are_that_image_s_own(server, monkeypatch):
    outcome = fetch(f"{server}/astray.jpg")
    assert outcome.status in ("refused", "unreachable") and outcome.reason
    rows = [
        row(f"{server}/good.jpg", number=0),
        row("http://xn--/x.jpg", number=1),
        row(f"{server}/good.jpg", number=2),
    ]
    with Downloader(config()) as downloader:
        assert [outcome.status for _, outcome in downloader.all(rows)] == ["ok", "refused", "ok"]
    monkeypatch.setattr("c2srt.sharding.urls.disagreement", lambda data, row: 1 / 0)
    assert (
        fetch(f"{server}/good.jpg").reason
        == f"{server}/good.jpg: ZeroDivisionError: division by zero"
    )


def test_downloads_overlap_keep_their_order_and_the_limit(server):
    rows = [
        row(f"{server}/wait-{number}.jpg" if number % 3 else f"{server}/gone.jpg", number=number)
        for number in range(24)
    ]
    with Downloader(config(concurrency=8)) as downloader:
        results = list(downloader.all(rows))
    assert [image_id for image_id, _ in results] == [each["id"] for each in rows]
    assert [outcome.status for _, outcome in results] == [
        "ok" if number % 3 else "missing" for number in range(24)
    ]
    assert 2 < Handler.most_inside <= 8


def test_a_killed_download_resumes_from_its_stage(server, tmp_path, monkeypatch):
    """The first piece is staged; a second run downloads only the second."""
    monkeypatch.setattr("c2srt.sharding.pieces.STAGE_ROWS", 4)
    monkeypatch.setattr("c2srt.sharding.urls.STAGE_ROWS", 4)
    table = pl.DataFrame(
        [row(f"{server}/good-{number}.jpg", number=number) for number in range(8)],
        schema={
            "id": pl.String,
            "url": pl.String,
            "rotation": pl.Int32,
            "original_size": pl.Int64,
            "original_md5": pl.String,
        },
    )
    table = table.sort("id")
    task = ShardTask(
        "train-000000",
        "train",
        "",
        0,
        8,
        str(tmp_path),
        "settings",
        UrlSource(),
        config(concurrency=1),
    )
    results = UrlSource().outcomes(table, task)
    first = [next(results) for _ in range(3)]
    results.close()
    assert sum(Handler.seen.values()) < 8
    Handler.seen.clear()
    again = list(UrlSource().outcomes(table, task))
    assert (
        again[:3] == first and len(again) == 8 and all(outcome.status == "ok" for outcome in again)
    )
    assert set(Handler.seen) == {
        url.rpartition("/")[2].removesuffix(".jpg") for url in table["url"][4:]
    }


@pytest.mark.parametrize(
    "header, seconds",
    [(None, 0), ("7", 7), ("soon", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("-3", 0), ("²", 0)],
)
def test_retry_after_headers(header, seconds):
    assert (retry_after(header) or 0) == seconds


def test_a_senseless_download_configuration_is_refused():
    with pytest.raises(UserError, match="download.attempts=0"):
        DownloadConfig(attempts=0)
    with pytest.raises(UserError, match="data.images=web"):
        DataConfig(images="web")
