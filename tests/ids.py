"""The ids of all tests of another commit and of this tree: none may vanish in a restructuring.

    python -m tests.ids COMMIT

prints what is gone and what is new. Exit status 1 if anything is gone.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.golden import write_tree

ROOT = Path(__file__).parent.parent


def ids(tree: Path) -> set[str]:
    """Every test, whatever its mark. Raises CalledProcessError if a file cannot be imported."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            "-q",
            "-o",
            "addopts=",
            "-p",
            "no:cacheprovider",
        ],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        check=True,
        capture_output=True,
        text=True,
    )
    return {line for line in done.stdout.splitlines() if "::" in line}


def main(commit: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        write_tree(commit, Path(folder))
        before = ids(Path(folder))
    after = ids(ROOT)
    for what, names in (("gone", before - after), ("new", after - before)):
        for name in sorted(names):
            print(f"{what}: {name}")
    assert before and after
    print(f"{len(before)} before, {len(after)} now, {len(before - after)} gone")
    return int(bool(before - after))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
