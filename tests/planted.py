"""Faults planted one at a time, to see which default tests catch each: before a change of the
structure, and after it.

    python -m tests.planted FOLDER [NAME…]

copies this tree into FOLDER, plants one fault, runs the named test files until one fails, and
prints a JSON line for each: the fault and the test that caught it, or null. Exit status 1 if one
was not caught. By hand; half an hour on two cores. When what a fault changes has moved, move the
fault.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Fault:
    """`right` stands once in `file` and becomes `wrong`; `tests` are the files that should see
    it.
    """

    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]


FAULTS = {
    # the order of samples, and going on after a kill
    "order: windows overlap": Fault(
        "c2srt/order.py",
        "[positions[here] - starts[window]]",
        "[np.maximum(positions[here] - starts[window] - 1, 0)]",
        ("order",),
    ),
    "order: the last batch is not reweighted": Fault(
        "c2srt/order.py", "self.batch / real, 0.0)", "1.0, 0.0)", ("order", "loader")
    ),
    "order: padding counts": Fault(
        "c2srt/order.py",
        "start + partition.micro_batch) < stop",
        "start + partition.micro_batch) <= stop",
        ("world_sizes",),
    ),
    "resume: a damaged checkpoint is taken": Fault(
        "c2srt/train/checkpoints.py",
        "        if reason is None:\n",
        "        if True:\n",
        ("checkpoints", "world_sizes"),
    ),
    "resume: another run's settings are taken": Fault(
        "c2srt/train/checkpoints.py",
        "        if before.get(name) != now.get(name):\n",
        "        if False:\n",
        ("checkpoints",),
    ),
    "resume: the rate starts again": Fault(
        "c2srt/train/loop.py",
        "learning_rate_factor(step - 1, steps, warmup)",
        "learning_rate_factor(step - first, steps, warmup)",
        ("train", "world_sizes"),
    ),
    # the loss and the head
    "loss: margin once an image": Fault(
        "c2srt/model/loss.py", "+ margin * pairs", "+ margin", ("loss",)
    ),
    "loss: gradient of the positives is short by one": Fault(
        "c2srt/model/loss.py", "up_to[:, :-1] - up_to", "up_to[:, 1:] - up_to", ("loss",)
    ),
    "isr: one patch too few": Fault(
        "c2srt/model/isr.py",
        "best.cumsum(-1).sub_(best) < threshold",
        "best.cumsum(-1) < threshold",
        ("head", "network"),
    ),
    "ist: a missing neighbour is heard": Fault(
        "c2srt/model/ist.py",
        "            alpha *= present[chunk.flat]\n",
        "            pass\n",
        ("head",),
    ),
    "head: the residual's gradient is lost": Fault(
        "c2srt/model/ist.py", "return grad if self.residual else None,", "return None,", ("head",)
    ),
    "head: tiles of several images share nodes": Fault(
        "c2srt/model/tile.py",
        "torch.where(table >= 0, table + first, -1)",
        "torch.where(table >= 0, table, -1)",
        ("head",),
    ),
    # packing
    "packing: spans are off by a block": Fault(
        "sharding/pack.py",
        '"jpg_offset": offset + BLOCK,',
        '"jpg_offset": offset,',
        ("pack", "loader", "shard_job"),
    ),
    "packing: unlabelled images vanish": Fault(
        "sharding/pack.py",
        "yield next(found) if fetch else NO_LABELS",
        "yield from [next(found)] if fetch else []",
        ("pack", "shard_job"),
    ),
    "packing: a shard of other settings is kept": Fault(
        "sharding/pack.py", '{"settings": settings}, hashed', "{}, hashed", ("pack", "shard_job")
    ),
    # metrics
    "metrics: ties are broken": Fault(
        "c2srt/evaluation/metrics.py",
        "group[1:] != group[:-1], True)",
        "group[1:] == group[1:], True)",
        ("metrics",),
    ),
    "metrics: the last category of a block is cut": Fault(
        "c2srt/evaluation/metrics.py",
        "+ np.uint64(1)) << CATEGORY_BIT",
        ") << CATEGORY_BIT",
        ("metrics",),
    ),
    # the ledger, the lock, artefacts
    "ledger: a request that never came back is free": Fault(
        "c2srt/relations/ledger.py",
        "self.spent += self.open.pop(key, 0.0)  #",
        "self.open.pop(key, 0.0)  #",
        ("mining", "mining_kills"),
    ),
    "lock: a second command writes": Fault(
        "c2srt/lock.py",
        "    if not locked(file, COMMAND, 0):\n",
        "    if False:\n",
        ("artefacts", "train"),
    ),
    "artefact: files of two runs pass for one": Fault(
        "c2srt/artefact.py",
        " and sha256_of_file(path) == files.get(name)",
        "",
        ("artefacts", "evaluate"),
    ),
}


def caught_by(fault: Fault, tree: Path) -> str | None:
    """The first test that fails with the fault in place."""
    path = tree / fault.file
    text = path.read_text(encoding="utf-8")
    if text.count(fault.right) != 1:
        sys.exit(
            f"{fault.file} has {fault.right!r} {text.count(fault.right)} times: move the fault"
        )
    path.write_text(text.replace(fault.right, fault.wrong), encoding="utf-8")
    try:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-x",
                "-q",
                *(f"tests/test_{name}.py" for name in fault.tests),
            ],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
        )
    finally:
        path.write_text(text, encoding="utf-8")
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M)
    return found[1] if found else None


def main(folder: str, *names: str) -> int:
    tree, missed = Path(folder).resolve() / "tree", 0
    shutil.copytree(
        ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*cache")
    )
    for name in names or FAULTS:
        test = caught_by(FAULTS[name], tree)
        missed += test is None
        print(json.dumps({"fault": name, "caught by": test}), flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
