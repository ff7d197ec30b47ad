"""The tests of another commit and of this tree: none may vanish in a restructuring.

    python -m tests.ids COMMIT

prints what is gone and what is new, by name and parameters; a test may move to another file. Exit
status 1 if a test has fewer cases than before: parameters that are a command's text change with it.
"""

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.golden import write_tree

ROOT = Path(__file__).parent.parent


def ids(tree: Path) -> Counter[str]:
    """Every test, whatever its mark, and how many files have one of that name. Raises
    CalledProcessError if a file cannot be imported.
    """
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
    return Counter(line.split("::", 1)[1] for line in done.stdout.splitlines() if "::" in line)


def main(commit: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        write_tree(commit, Path(folder))
        before = ids(Path(folder))
    after = ids(ROOT)
    for what, names in (("gone", before - after), ("new", after - before)):
        for name in sorted(names.elements()):
            print(f"{what}: {name}")
    assert before and after
    fewer = cases(before) - cases(after)
    for name, count in sorted(fewer.items()):
        print(f"fewer cases, {count}: {name}")
    print(f"{before.total()} before, {after.total()} now, {fewer.total()} gone")
    return int(fewer.total() > 0)


def cases(names: Counter[str]) -> Counter[str]:
    """How many cases each test has."""
    found: Counter[str] = Counter()
    for name, count in names.items():
        found[name.partition("[")[0]] += count
    return found


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
