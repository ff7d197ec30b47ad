"""`c2srt evaluate` on little, and what it wrote."""

import json

from c2srt.cluster.cli import main


def evaluate(*arguments) -> int:
    return main(["evaluate", "workers=2", "loader_workers=0", "batch=4", *map(str, arguments)])


def results(folder) -> dict:
    return json.loads((folder / "results.json").read_text())
