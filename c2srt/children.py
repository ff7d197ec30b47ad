"""What the interpreters that a command starts share (c2srt/isolation.py, c2srt/processes.py)."""

import os
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def python_path() -> str:
    """PYTHONPATH with which such a process, wherever it stands, imports what the command does."""
    return os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))


def give_way() -> None:
    """Whoever must go for want of memory, this process shall, and not the command."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
