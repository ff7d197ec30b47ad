"""moto's S3 server in a process of its own: an implementation of the protocol that is not ours.

Its requirements contradict those of other libraries, so it has an environment of its own:
.venv-moto beside this repository's, made by .ci/run, or wherever C2SRT_MOTO leads.
"""

import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUCKET = "c2srt-road"


def command() -> str | None:
    """The server's command, None where it is not installed."""
    own = ROOT / ".venv-moto/bin/moto_server"
    return os.environ.get("C2SRT_MOTO") or (str(own) if own.exists() else shutil.which(own.name))


@contextmanager
def moto(log: Path) -> Iterator[str]:
    """The address of a store that has an empty BUCKET."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [command() or "", "-H", "127.0.0.1", "-p", "0"],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"},
        )
    try:
        until = time.monotonic() + 60
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        make = urllib.request.Request(f"{found[0]}/{BUCKET}", method="PUT")
        make.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=a/20200101/us-east-1/s3/x")
        urllib.request.urlopen(make).close()
        yield found[0]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
