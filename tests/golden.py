"""The road walked by the code of another commit and by this one, on this machine: what they make
must be the same.

    python -m tests.golden COMMIT FOLDER

walks it twice below FOLDER, `before` with COMMIT's tree and `after` with this one, with relative
paths, and prints every file that differs. Then today's code walks over a copy of what COMMIT made,
which must stay as it is, and goes on from its checkpoint, which must end in its weights. Exit
status 1 if anything differs. Run again it walks `after` anew and keeps `before`. Some ten minutes
on two cores; by hand, at every commit that moves code (floats differ between processors, so nothing
of it is kept as a file).
"""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import yaml

from c2srt.data_keys import OpenImagesKeys
from c2srt.files import write_json
from c2srt.keys import defaults
from c2srt.old_names import GROUPS, old, written
from tests.kills import content_of

ROOT = Path(__file__).parent.parent
DRAW = """
if __name__ == "__main__":
    from pathlib import Path
    from c2srt.demo.raw import write_raw
    from tests.tiny import tiny_clip_config
    write_raw(Path("raw"), 0, {"train": 48, "validation": 12, "test": 24}, 1)
    tiny_clip_config(Path())
"""
WORK = ["data=miniature", "data.root=raw", "work=w", "workers=1"]
CLIP = ["clip.name=tiny.json", "clip.pretrained=random"]
TRAIN = [
    *CLIP,
    "views.count=2",
    "loader_workers=0",
    "batch=8",
    "micro_batch=4",
    "steps=30",
    "checkpoint_every=15",
    "keep_last=9",
    "validate_every=0",
    "model.layers=1",
    "model.heads=2",
    "tracking.model=false",
]
TRAINED = {f"zero-{zero}-ranks-{ranks}": (zero, ranks) for zero in (0, 2) for ranks in (1, 2)}
PREDICT = [
    "predict",
    "checkpoint=w/export",
    "images=[raw/images/test]",
    "labels=[disc,ring,opera]",
    "json=true",
]
VERBS = (
    "shard",
    "audit",
    "text",
    "relations",
    "relations-mine",
    "relations-report",
    "teacher",
    "plan",
    "train",
    "tune",
    "evaluate",
    "tables",
    "figures",
    "predict",
    "bench",
    "check",
    "export",
    "demo",
)
SMALL = ("acceptance", "index", "settings", "vocabulary")
RUNS = (
    "mlflow.db",
    "run.json",
    "tracking.jsonl",
    "metrics.jsonl",
    "train.json",
    "train.log",
    "loss.png",
)
"""Files that tell when things happened, or how long they took."""
ANEW = ("w/export/", *(f"w/shards/{name}.json" for name in SMALL))
"""What `export` and `shard` write again each time, with the same content."""
MEASURED = ("data_wait_share", "images_per_s", "peak_rss_mib")
"""What the record of a checkpoint says of the machine."""


def road() -> list[list[str]]:
    """The commands, in their order."""
    graphs = [
        ["relations", *WORK, f"graph={kind}", "neighbours=5"]
        for kind in ("llm", "similarity", "cooccurrence", "random", "none")
    ]
    trained = [
        ["train", *WORK, *TRAIN, f"zero={zero}", f"workers={ranks}", f"out=w/{name}"]
        for name, (zero, ranks) in TRAINED.items()
    ]
    scored = ["evaluate", *WORK, *CLIP, "topk=[2,3]", "bootstrap=40", "loader_workers=0"]
    return [
        ["shard", *WORK],
        ["text", *WORK, *CLIP, "templates=['a {}.','the {}.']"],
        *graphs,
        ["teacher", *WORK, *CLIP, "views.count=2"],
        *trained,
        ["export", "checkpoint=w/zero-0-ranks-1", "out=w/export"],
        [*scored, "checkpoint=w/export", "out=w/full/seed-0/evaluation"],
        [*scored, "checkpoint=clip", "out=w/evaluation-clip"],
        PREDICT,
        ["tables", *WORK, "tables=[parts]", "train=false", "topk=[2,3]"],
        *([verb, "--cfg", "job"] for verb in VERBS),
    ]


def run(tree: Path, folder: Path, arguments: list[str]) -> str:
    """What one command printed. Raises SystemExit if it failed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": "",
        "COLUMNS": "100",
    }
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(
            f"{folder.name}: {' '.join(arguments)} ended with"
            f" {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-3000:]}"
        )
    return done.stdout


def verb(tree: Path, folder: Path, arguments: list[str]) -> str:
    return run(
        tree,
        folder,
        ["-c", "import sys; from c2srt.entry import main; sys.exit(main())", *arguments],
    )


def walk(tree: Path, folder: Path, start: Path) -> None:
    """The whole road in a folder of its own; what is printed by `--cfg` and `predict` is kept as
    files.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(start, folder)
    for arguments in road():
        print(f"{folder.name}: c2srt {' '.join(arguments)[:110]}", flush=True)
        said = verb(tree, folder, arguments)
        if "--cfg" in arguments:  # whatever the order of the keys
            write_json(folder / f"keys-of-{arguments[0]}.json", by_old_names(yaml.safe_load(said)))
        elif arguments == PREDICT:
            (folder / "predictions.jsonl").write_text(said)


def by_old_names(keys: dict[str, Any]) -> dict[str, Any]:
    """A verb's keys as they were called before they stood in groups (c2srt/old_names.py), without
    those of the data set that no file sets.
    """
    keys = overrides_by_old_names(written(keys) if keys.keys() >= GROUPS else keys)
    plain = defaults(OpenImagesKeys)
    data = {name: value for name, value in keys["data"].items() if value != plain[name]}
    return {**keys, "data": data}


def overrides_by_old_names(value: Any) -> Any:
    """With the overrides in it (a table's rows)."""
    if isinstance(value, dict):
        return {key: overrides_by_old_names(below) for key, below in value.items()}
    if isinstance(value, list):
        return [old(one) if isinstance(one, str) else overrides_by_old_names(one) for one in value]
    return value


def in_place(content: object, folder: Path) -> object:
    """A record's content with paths as seen from `folder`, where the two trees have the same."""
    if isinstance(content, dict):
        told = {key: value for key, value in content.items() if key not in MEASURED}
        return {key: in_place(value, folder) for key, value in told.items()}
    if isinstance(content, list):
        return [in_place(value, folder) for value in content]
    return content.replace(str(folder), ".") if isinstance(content, str) else content


def made(folder: Path) -> dict[str, object]:
    """Every file that was made, by its name, without what no two runs share."""
    return {
        str(path.relative_to(folder)): in_place(content_of(path), folder)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in RUNS
        and "mlartifacts" not in path.parts
        and not path.name.endswith("lock")
    }


def differences(before: dict[str, object], after: dict[str, object], what: str) -> int:
    odd = [name for name in sorted(before | after) if before.get(name) != after.get(name)]
    for name in odd:
        state = "differs" if name in before and name in after else "is new"
        print(f"{what}: {name} {state if name in after else 'is missing'}")
    print(f"{what}: {len(before)} files, {len(odd)} differences")
    return len(odd)


def times(folder: Path) -> dict[str, object]:
    """When each file was written; of what a command writes at each start, its content."""
    return {
        name: content if name.startswith(ANEW) else (folder / name).stat().st_mtime_ns
        for name, content in made(folder).items()
    }


def write_tree(commit: str, folder: Path) -> None:
    """The files of a commit. Raises CalledProcessError if there is no such commit."""
    command = ["git", "archive", commit]
    content = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(folder, filter="data")


def main(commit: str, place: str) -> int:
    folder = Path(place).resolve()
    old, start, before, after, used = (
        folder / name for name in ("tree", "start", "before", "after", "used")
    )
    if not (folder / "done").exists():
        for one in (old, start):
            shutil.rmtree(one, ignore_errors=True)
            one.mkdir(parents=True)
        write_tree(commit, old)
        (start / "draw.py").write_text(DRAW)
        run(old, start, ["draw.py"])
        walk(old, before, start)
        (folder / "done").touch()
    walk(ROOT, after, start)
    found = differences(made(before), made(after), "made anew")
    shutil.rmtree(used, ignore_errors=True)
    shutil.copytree(before, used)
    there = times(used)
    for arguments in road():
        if arguments != PREDICT and "--cfg" not in arguments and arguments[0] != "tables":
            verb(ROOT, used, arguments)
    found += differences(there, times(used), "used again")
    for name in TRAINED:
        shutil.rmtree(used / "w" / name)
        shutil.copytree(
            before / "w" / name / "checkpoints/step-00000015",
            used / "w" / name / "checkpoints/step-00000015",
        )
    for arguments in (one for one in road() if one[0] == "train"):
        verb(ROOT, used, arguments)
    weights = [f"w/{name}/model/model.safetensors" for name in TRAINED]
    return int(
        found
        + differences(
            *({name: (one / name).read_bytes() for name in weights} for one in (before, used)),
            "resumed",
        )
        > 0
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
