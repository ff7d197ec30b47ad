"""What a command shows of its log, on which stream; and that a library shows nothing."""

import io
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from c2srt import command, console, progress
from c2srt.progress import Progress

ROOT = Path(__file__).parent.parent


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def advance(progress: Progress, seconds: float) -> None:
    """As if that much time had passed since the last line."""
    progress._logged -= seconds
    progress._drawn -= seconds


def test_information_goes_to_stdout_and_warnings_to_stderr(capsys):
    logging.getLogger("c2srt.sharding.some").info("100 % done")
    logging.getLogger("c2srt.some").debug("nobody reads this")
    logging.getLogger("c2srt.cluster.some").warning("beware")
    assert capsys.readouterr() == ("100 % done\n", "beware\n")


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(capsys):
    progress = Progress("work", 4)
    advance(progress, 1)
    progress.update()
    assert capsys.readouterr() == ("", "")
    advance(progress, 10)
    progress.update(note="half")
    progress.update()
    progress.close()
    out, err = capsys.readouterr()
    first, last = err.splitlines()
    assert out == "" and "\r" not in err and "\x1b" not in err
    assert first.startswith("work  50 % · 2 of 4 images") and first.endswith(" · half")
    assert last.startswith("work  75 % · 3 of 4 images")


def test_progress_is_redrawn_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    progress = Progress("work", 4)
    progress.update()
    assert terminal.getvalue() == ""
    for seconds in (1, 10):
        advance(progress, seconds)
        progress.update()
    progress.close("end")
    shown = terminal.getvalue()
    first, second, third, last = shown.split("\r")
    assert first == "" and second.startswith("work  50 %") and third.startswith("work  75 %")
    assert second.endswith("\x1b[K") and third.endswith("\x1b[K")
    assert last.startswith("work  75 %") and last.endswith(" · end\x1b[K\n")


def test_a_line_of_progress_is_a_line_on_a_terminal_too(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    progress.log.info("loading …")
    assert terminal.getvalue() == "loading …\n"


def test_a_stream_that_fails_ends_the_command(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(BrokenPipeError):
        logging.getLogger("c2srt.some").info("one line")


def quiet_and_back(arguments: list[str]) -> int:
    """Runs the command; the log is then shown as the tests have it."""
    try:
        return command.main({}, arguments)
    finally:
        console.show_log()


@pytest.mark.parametrize("arguments", [["text", "-q"], ["--quiet", "text"]])
def test_quiet_leaves_warnings(monkeypatch, capsys, arguments):
    def told(verbs: object, rest: list[str]) -> int:
        assert rest == ["text"]
        logging.getLogger("c2srt.text").info("working")
        Progress("work", 1).close()
        logging.getLogger("c2srt.text").warning("beware")
        print("the result")
        return 0

    monkeypatch.setattr(command, "told", told)
    assert quiet_and_back(arguments) == 0
    assert capsys.readouterr() == ("the result\n", "beware\n")


def test_processes_show_what_the_command_does(monkeypatch):
    from c2srt.processes import Job

    shown = []
    monkeypatch.setattr("c2srt.processes.show_log", shown.append)
    for level in (logging.WARNING, None):
        Job(str, "", (), level)(1)
    assert shown == [logging.WARNING]
    assert console.shown_from() == logging.INFO


LIBRARY = """
import logging, sys
from c2srt import lock, progress
from c2srt.relations.answers import log_dropped
{before}
log_dropped({{"no answer": 2}}, "a file")
working = progress.Progress("work", 1)
working.update()
working.close()
lock.log.warning("beware")
print("the result")
"""
TO_FILE = """
logging.basicConfig(filename=sys.argv[1], level=logging.INFO, format="%(name)s: %(message)s")
"""
SILENT = """
for name in ("c2srt", "cluster", "sharding"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
"""


def as_library(before: str, path: Path) -> tuple[str, str]:
    """What a program that imports us shows, after a line of its own about logging."""
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY.format(before=before), str(path)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return done.stdout, done.stderr


def test_a_library_shows_warnings_alone(tmp_path):
    assert as_library("", tmp_path / "log") == ("the result\n", "beware\n")


def test_a_caller_redirects_everything_to_a_file(tmp_path):
    assert as_library(TO_FILE, tmp_path / "log") == ("the result\n", "")
    said = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert said[0] == "c2srt.relations.answers: relations from a file"
    assert said[2].startswith("c2srt.progress: work 100 %")
    assert said[3:] == ["c2srt.lock: beware"]


def test_a_caller_silences_everything(tmp_path):
    assert as_library(SILENT, tmp_path / "log") == ("the result\n", "")


def test_the_last_line_of_progress_is_logged_once(caplog):
    caplog.set_level("INFO")
    progress = Progress("work", 2, log_every_s=0)
    progress.update()
    progress.update()
    progress.close()
    assert [record.getMessage()[:10] for record in caplog.records] == ["work  50 %", "work 100 %"]
