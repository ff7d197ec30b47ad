"""What identifies the code, the job and the user of a run."""

import getpass
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SLURM = (
    ("slurm_job_id", "SLURM_JOB_ID"),
    ("slurm_array_task_id", "SLURM_ARRAY_TASK_ID"),
    ("slurm_restart_count", "SLURM_RESTART_COUNT"),
    ("slurm_nodes", "SLURM_NODELIST"),
)


def job_tags() -> dict[str, str]:
    """Git commit of the package, Slurm ids, host."""
    tags = {"host": socket.gethostname()} | {
        tag: os.environ[name] for tag, name in SLURM if name in os.environ
    }
    commit = git_commit(Path(__file__).parent)
    return tags | ({"git_commit": commit} if commit else {})


def git_commit(folder: Path) -> str | None:
    """The commit of the repository that `folder` lies in, or None without git or repository."""
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def user_name() -> str:
    """The user's name; the number where a container gives none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


@contextmanager
def home_for_imports() -> Iterator[None]:
    """A home folder for libraries that ask where it is when they are imported, where the user has
    none.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()
        try:
            yield
        finally:
            del os.environ["HOME"]
    else:
        yield
