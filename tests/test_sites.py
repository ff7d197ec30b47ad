"""c2srt/sites.py: a site's pace, its pauses, and when it is given up."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from c2srt.download_config import POLITE, DownloadConfig, PassesConfig
from c2srt.errors import UserError
from c2srt.sites import ENOUGH, Closed, GivenUp, Site, Sites, site_name

NEVER = threading.Event()


def site(interval: float = 0.0, **options) -> Site:
    return Site("x.org", interval, DownloadConfig(**{"backoff": 0.05, "patience": 5.0} | options))


def test_no_two_requests_leave_sooner_than_the_pace():
    times, each = [], site(0.02)

    def leave(_: int) -> None:
        each.enter(NEVER)
        times.append(each.last)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(leave, range(24)))
    times = sorted(set(times))
    assert min(b - a for a, b in zip(times, times[1:], strict=False)) >= 0.02 - 1e-9


def test_requests_that_were_held_up_after_they_were_let_through_still_leave_at_the_pace():
    times, each = [], site(0.02)

    def leave(_: int) -> None:
        with each.leaving(NEVER):
            times.append(time.monotonic())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(leave, range(16)))
    assert min(b - a for a, b in zip(times, times[1:], strict=False)) >= 0.02 - 1e-9


@pytest.mark.parametrize("asks, tries", [(True, 1), (False, ENOUGH)])
def test_a_site_that_answered_is_closed_by_one_429_or_when_many_files_fail(asks, tries):
    each = site()
    each.answered(each.enter(NEVER))
    for number in range(tries):
        assert not each.closed, number
        each.failed(each.enter(NEVER), f"{number}.jpg", "HTTP 500", asks, 0)
    assert each.closed and each.opens > time.monotonic()


def test_answers_in_between_keep_it_open():
    each = site()
    for number in range(4 * ENOUGH):
        each.failed(each.enter(NEVER), f"{number}.jpg", "HTTP 500", False, 0)
        each.answered(each.enter(NEVER))
    assert not each.closed and not each.given_up


def test_a_few_files_that_always_fail_neither_close_it_nor_give_it_up():
    each = site(patience=0.1, backoff=0.2)
    each.answered(each.enter(NEVER))
    for number in range(4 * ENOUGH):
        each.failed(each.enter(NEVER), f"{number % 3}.jpg", "HTTP 500", False, 0)
    assert not each.closed
    time.sleep(0.1)
    for _ in range(3):
        each.failed(each.enter(NEVER), "1.jpg", "HTTP 429", True, 0)
    assert each.closed and not each.fails and not each.given_up


def test_after_a_pause_one_request_goes_and_the_others_wait_for_what_it_finds():
    each = site()
    each.answered(0)
    each.failed(0, "1.jpg", "HTTP 429", True, 0)
    epoch = each.enter(NEVER)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(each.enter, NEVER) for _ in range(4)]
        time.sleep(0.2)
        assert not any(future.done() for future in waiting)
        each.answered(epoch)
    assert all(future.result() == epoch for future in waiting) and not each.closed


def test_answers_of_requests_that_left_before_do_not_open_it_nor_double_its_pause():
    each = site()
    before = each.enter(NEVER)
    each.failed(before, "1.jpg", "HTTP 429", True, 0)
    opens = each.opens
    for _ in range(15):
        each.failed(before, "1.jpg", "HTTP 429", True, 0)
    each.answered(before)
    assert each.closed and each.pauses == 1 and each.opens == opens


def test_a_429_halves_the_pace_and_answers_bring_it_back():
    each = site(0.001)
    each.failed(0, "1.jpg", "HTTP 429", True, 0)
    assert each.slowed == 2
    for _ in range(40):
        each.answered(each.epoch)
    assert each.slowed == 1


def test_a_retry_after_within_our_patience_is_waited_for_and_a_longer_one_gives_up():
    each = site(patience=2)
    each.failed(0, "1.jpg", "HTTP 429", True, 1.5)
    assert each.closed and not each.given_up and each.opens >= time.monotonic() + 1
    each.failed(each.epoch, "1.jpg", "HTTP 429", True, float("inf"))
    with pytest.raises(GivenUp, match=r"HTTP 429: nothing for longer than download.patience=2"):
        each.enter(NEVER)


def test_a_site_from_which_nothing_ever_came_is_given_up_after_some_images():
    each = site()
    for number in range(ENOUGH):
        assert not each.given_up
        each.failed(0, f"{number}.jpg", "ConnectError", False, 0)
        each.file_used_up("ConnectError")
    with pytest.raises(GivenUp, match="ConnectError: nothing ever came from there"):
        each.enter(NEVER)


def test_who_waits_is_let_go_at_the_end():
    each, stopped = site(), threading.Event()
    each.failed(0, "1.jpg", "HTTP 429", True, 4)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(each.enter, stopped)
        stopped.set()
        with pytest.raises(GivenUp):
            waiting.result(timeout=3)


@pytest.mark.parametrize(
    "host, name",
    [
        ("c1.staticflickr.com", "staticflickr.com"),
        ("FARM2.StaticFlickr.com.", "staticflickr.com"),
        ("a.b.co.uk", "b.co.uk"),
        ("photos.example.de", "example.de"),
        ("example", "example"),
        ("127.0.0.1", "127.0.0.1:8080"),
        ("localhost", "localhost:8080"),
        ("::1", "::1:8080"),
    ],
)
def test_what_is_one_site(host, name):
    assert site_name(host, 8080) == name


@pytest.mark.parametrize(
    "rate, tasks, url, interval",
    [
        ("polite", 1, "https://c1.staticflickr.com/x.jpg", 1 / POLITE),
        ("polite", 4, "https://1.1.1.1/x.jpg", 4 / POLITE),
        ("polite", 4, "http://10.0.0.5/x.jpg", 0),
        ("polite", 4, "http://localhost:80/x.jpg", 0),
        (50, 4, "http://127.0.0.1/x.jpg", 0.08),
        (0.5, 1, "http://example.org/x.jpg", 2),
    ],
)
def test_the_rate_is_shared_by_the_tasks_and_a_mirror_of_one_s_own_has_none(
    rate, tasks, url, interval
):
    sites = Sites(DownloadConfig(rate=rate), tasks)
    assert sites.of(httpx2.URL(url)).interval == pytest.approx(interval)


def test_what_one_pass_learns_of_a_site_holds_in_the_next():
    url, config = httpx2.URL("http://example.org/x.jpg"), DownloadConfig(patience=100)
    first = Sites(config)
    first.of(url).failed(0, "1.jpg", "HTTP 429", True, 50)
    closed = first.closed()
    assert closed["example.org"].until == pytest.approx(time.time() + 50, abs=20)
    assert Sites(config, closed=closed).of(url).closed
    later, over = (Closed(time.time() + wait, "HTTP 429") for wait in (1000, -1))
    with pytest.raises(GivenUp, match="HTTP 429: nothing for"):
        Sites(config, closed={"example.org": later}).of(url).enter(NEVER)
    assert not Sites(config, closed={"example.org": over}).of(url).closed


@pytest.mark.parametrize(
    "key, value",
    [
        ("rate", 0),
        ("rate", "fast"),
        ("rate", float("nan")),
        ("rate", 1e-9),
        ("concurrency", 2.5),
        ("timeout", float("inf")),
        ("backoff", -1),
        ("patience", "long"),
        ("noai", "perhaps"),
        ("contact", "me\r\nX: y"),
        ("contact", "a (b)"),
        ("passes", 0),
        ("pause", -1),
        ("arrived", 1.5),
        ("most_unreachable", -0.1),
    ],
)
def test_keys_out_of_range_are_refused(key, value):
    with pytest.raises(UserError, match=rf"^download\.{key}=.* must be "):
        PassesConfig(**{key: value})
