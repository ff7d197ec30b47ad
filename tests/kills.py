"""SIGKILL at every durable operation of a verb, and the same command again: a runner of its own, so
that what it forks inherits no thread.

    python -m tests.kills FOLDER STRIDE VERB…

makes a tiny world in FOLDER, runs each verb's case undisturbed, then kills it before and after
every STRIDE-th operation (fsync, replace, unlink, rmtree below the world; 1 for all), repeats the
command each time, and prints a JSON line for each: the number of operations and of kills, and what
differed from the undisturbed run. Ray's tasks run in this process, one after the other; the files
are the same.
"""

import json
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

SEEN, UNSEEN = 24, 8
PATIENCE_S = 120
VOLATILE = {"date", "time", "token", "run_id", "sent", "mined", "versions", "seconds"}
"""Keys of records that no two runs share."""
RECORDS = ("run.json", "tracking.jsonl", "ledger.jsonl", "mlflow.db")
"""Files that tell when things happened: what they must say is compared apart."""


# --- the cases: overrides below the world W, and the folder that is compared


def cases(world: Path) -> dict[str, tuple[list[str], Path]]:
    clip = [f"clip.name={world}/tiny.json", "clip.pretrained=random"]
    evaluate = [
        "evaluate",
        f"work={world}",
        "workers=1",
        "batch=8",
        "loader_workers=0",
        "topk=[2,3]",
        "bootstrap=40",
        *clip,
    ]
    graph = ["relations", f"work={world}", "neighbours=3"]
    found = {
        "text": (
            [
                "text",
                f"work={world}",
                *clip,
                "block=8",
                "batch=16",
                "templates=['a {}.','the {}.']",
                f"out={world}/o",
            ],
            world / "o",
        ),
        "relations mine": (
            [
                "relations",
                "mine",
                f"work={world}",
                "url={url}",
                "model=loopback-1",
                "price_input=0",
                "price_output=0",
                "backoff_s=0.01",
                "concurrency=1",
                f"out={world}/o",
            ],
            world / "o",
        ),
        "relations mine batch": (
            [
                "relations",
                "mine",
                f"work={world}",
                "model=loopback-1",
                f"batch_export={world}/o/batches",
                f"out={world}/o",
            ],
            world / "o",
        ),
        "teacher": (
            [
                "teacher",
                f"work={world}",
                "workers=1",
                "batch=8",
                "views.count=2",
                *clip,
                f"out={world}/o",
            ],
            world / "o",
        ),
        "evaluate": (
            [*evaluate, f"checkpoint={world}/full", f"out={world}/full/evaluation"],
            world / "full",
        ),
        "evaluate clip": ([*evaluate, "checkpoint=clip", f"out={world}/o"], world / "o"),
        "tune": (
            [
                "tune",
                f"work={world}",
                f"checkpoint={world}/full/model",
                "steps=2",
                "batch=4",
                "micro_batch=4",
                "loader_workers=0",
                "log_every=1",
                "tracking.register=tuned",
                f"out={world}/o",
            ],
            world / "o",
        ),
        "export": (["export", f"checkpoint={world}/tc/train", f"out={world}/o/k"], world / "o"),
        "figures": (
            [
                "figures",
                f"work={world}",
                "figures=[isr,graph]",
                f"model={world}/full/seed-0/model",
                "fixed=[1,2]",
                "mkt=null",
                "loader_workers=0",
                f"relations_folder={world}/relations",
                *clip,
                f"out={world}/o",
            ],
            world / "o",
        ),
        "tables": (
            [
                "tables",
                f"work={world}",
                "tables=[parts]",
                "train=false",
                "topk=[2,3]",
                "groups=null",
                f"out={world}/o",
            ],
            world / "o",
        ),
    }
    for kind in ("llm", "mined", "similarity", "cooccurrence", "random", "none"):
        more = [f"relations_file={world}/answers.jsonl"] * (kind == "mined")
        found[f"relations {kind}"] = (
            [*graph, f"graph={kind}", *more, f"data.root={world}/raw", f"out={world}/o"],
            world / "o",
        )
    return found


# --- what runs in forked processes


def forked(work: Callable[[], int], log: Path) -> int:
    """Runs `work` in a process of its own; returns its exit status, or minus the signal that ended
    it.
    """
    if (process := os.fork()) == 0:
        os.setpgid(0, 0)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        try:
            status = work()
        except BaseException:
            import traceback

            traceback.print_exc()
            status = 99
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)
    deadline = time.monotonic() + PATIENCE_S
    while (ended := os.waitpid(process, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.killpg(process, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1])


def command(arguments: list[str], world: Path, kill: str | None = None) -> int:
    """One verb, in this process, without Ray; killed at `kill` ("7 before")."""
    import c2srt.cluster.evaluate
    import c2srt.cluster.teacher
    from c2srt import tracking
    from c2srt.cluster.cli import main
    from c2srt.executor import Here
    from tests.senders import fork_senders

    fork_senders()
    tracking.WAIT_S = PATIENCE_S  # on a crowded machine the rest would be left to the next command
    for module in (c2srt.cluster.evaluate, c2srt.cluster.teacher):
        module.open_executor = lambda *some, **more: nullcontext(Here())
        module.check_address = lambda: None
    count(world, kill)
    os.chdir(world)
    return main(arguments)


def count(world: Path, kill: str | None) -> None:
    """From here on the durable operations below `world` are counted in <world>.count, and the one
    that `kill` names is the last.
    """
    done, where, own = [0], Path(f"{world}.count"), os.getpid()

    def counted(real: Callable) -> Callable:
        def call(path, *some, **more):
            try:
                place = (
                    os.readlink(f"/proc/self/fd/{path}")
                    if isinstance(path, int)
                    else os.fspath(path)
                )
            except OSError:
                place = ""
            if os.getpid() != own or not str(place).startswith(str(world)):
                return real(path, *some, **more)
            done[0] += 1
            number = done[0]
            where.write_text(str(number))
            if kill == f"{number} before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(path, *some, **more)
            if kill == f"{number} after":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    where.write_text("0")
    os.replace, os.fsync, os.unlink, shutil.rmtree = map(
        counted, (os.replace, os.fsync, os.unlink, shutil.rmtree)
    )


# --- the world


def make_world(world: Path) -> int:
    """Shards, a tiny CLIP, text, graphs, an export with an MLflow run, and a checkpoint."""
    import torch
    from safetensors.torch import save_file

    from c2srt import text
    from c2srt.backbone.clip import load_clip
    from c2srt.export.write import save_export
    from c2srt.files import sha256_of_file, write_json
    from c2srt.model.build import build_student
    from c2srt.model.config import LossConfig, ModelConfig
    from c2srt.model.graph import Graph
    from c2srt.relations import build
    from c2srt.tracking import Run, Tracker
    from c2srt.train import checkpoints
    from c2srt.train.inputs import build_model, load_inputs
    from tests.shard_folder import make_shards, make_vocabulary
    from tests.tiny import random_graph, tiny_clip_config
    from tests.train_case import make_case

    vocabulary, config = make_vocabulary(SEEN, UNSEEN), tiny_clip_config(world)
    make_shards(world / "shards", {"train": 16, "validation": 4, "test": 24}, 8, vocabulary)
    text.run(text.Config(config, ["a {}."], {}, str(world / "shards"), str(world / "text")))
    clip = load_clip(config)
    features = text.load_text(world / "text", vocabulary, clip.hash)
    build.run(
        build.Config(
            "similarity",
            3,
            shards=str(world / "shards"),
            text=str(world / "text"),
            out=str(world / "relations/similarity"),
        )
    )
    model = build_student(
        clip,
        ModelConfig(heads=4, neighbours=3, max_patches=6, init="literal"),
        LossConfig(),
        Graph(features, random_graph(SEEN + UNSEEN, SEEN, 16, 3).table),
        SEEN,
    )
    save_export(
        world / "full/model", model, model.state_dict(), clip, vocabulary, ["a {}."], {"step": 4}
    )
    Tracker(
        world / "full", f"sqlite:///{world}/mlflow.db", Run("test", "full", {}, {}, "key")
    ).close()
    answers = [
        {
            "mid": mid,
            "name": name,
            "split": "seen" if row < SEEN else "unseen",
            "related": [
                {"mid": vocabulary.mids[(row + 1) % SEEN], "type": "synonymy", "strength": 3}
            ],
        }
        for row, (mid, name) in enumerate(zip(vocabulary.mids, vocabulary.names, strict=True))
    ]
    lines = "".join(
        json.dumps(line) + "\n"
        for line in [{"provenance": {"model": "none", "settings": {}}}, *answers]
    )
    (world / "answers.jsonl").write_text(lines)
    (world / "raw").mkdir()
    (world / "raw/relations.jsonl").write_text(lines)
    (world / "tc").mkdir()
    case = make_case(world / "tc", workers=1)
    inputs = load_inputs(case)
    trained = build_model(case, inputs)
    folder = world / "tc/train/checkpoints/step-00000004"
    folder.mkdir(parents=True)
    weights = {
        name: one.detach().float().contiguous().clone()
        for name, one in trained.named_parameters()
        if one.requires_grad
    }
    save_file(weights, folder / checkpoints.WEIGHTS)
    save_file({"x": torch.zeros(2)}, folder / checkpoints.OPTIMIZER)
    files = {
        name: sha256_of_file(folder / name) for name in (checkpoints.WEIGHTS, checkpoints.OPTIMIZER)
    }
    record = checkpoints.Record(4, 1, case.identity(), inputs.hashes, case.settings(), files=files)
    write_json(folder / checkpoints.COMPLETE, {"format": checkpoints.FORMAT, **asdict(record)})
    return 0


def add_results(world: Path) -> int:
    """Results for `tables` and `figures` to collect."""
    arguments, _ = cases(world)["evaluate clip"]
    found = world / "evaluation-clip"
    status = command([*arguments[:-1], f"out={found}"], world)
    shutil.copytree(found, world / "ist/seed-0/evaluation")
    shutil.copytree(world / "full/model", world / "full/seed-0/model")
    arguments, _ = cases(world)["evaluate"]
    return status or command(
        [
            *arguments[:-2],
            f"checkpoint={world}/full/seed-0/model",
            f"out={world}/full/seed-0/evaluation",
        ],
        world,
    )


# --- what is compared


def seen_in(world: Path, folder: Path) -> dict[str, object]:
    """Every file below `folder` by its name, without what no two runs share; and what MLflow
    holds.
    """
    found: dict[str, object] = {
        str(path.relative_to(folder)): content_of(path)
        for path in sorted(folder.rglob("*"))
        if not path.is_dir() and path.name not in RECORDS
    }
    found["folders"] = sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_dir()
    )
    found["beside"] = sorted(
        path.name for path in world.iterdir() if "tmp" in path.name or "lock" in path.name
    )
    with sqlite3.connect(world / "mlflow.db") as store:
        found["runs"] = sorted(
            store.execute("select status, count(*) from runs group by status").fetchall()
        )
        found["metrics"] = sorted(store.execute("select key, step, value from metrics").fetchall())
        found["models"] = sorted(
            store.execute("select name, version from model_versions").fetchall()
        )
    found["artifacts"] = sorted(
        path.name for path in (world / "mlartifacts").rglob("*") if path.is_file()
    )
    return found


def content_of(path: Path) -> object:
    data = path.read_bytes()
    if path.suffix not in (".json", ".jsonl"):
        return data
    return [
        without_time(json.loads(line))
        for line in ([data] if path.suffix == ".json" else data.splitlines())
    ]


def without_time(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_time(inner) for key, inner in value.items() if key not in VOLATILE}
    return [without_time(inner) for inner in value] if isinstance(value, list) else value


# --- the runner


def main(folder: Path, stride: int, verbs: list[str]) -> None:
    """Prints {"verb", "operations", "kills", "faults"} for each."""
    world, pristine, log = folder / "world", folder / "pristine", folder / "log"
    world.mkdir(parents=True)
    assert forked(lambda: make_world(world), log) == 0, log.read_text()
    if {"tables", "figures"} & {*verbs}:
        assert forked(lambda: add_results(world), log) == 0, log.read_text()
    os.replace(world, pristine)
    url = served(folder) if "relations mine" in verbs else ""
    for verb in verbs:
        arguments, place = cases(world)[verb]
        trial = Trial(
            world, pristine, log, [argument.replace("{url}", url) for argument in arguments], place
        )
        print(json.dumps({"verb": verb, **trial.all(stride)}), flush=True)


@dataclass(frozen=True)
class Trial:
    """One verb's case: its arguments, and the folder that is compared."""

    world: Path
    pristine: Path
    log: Path
    arguments: list[str]
    place: Path

    def run(self, kill: str | None = None, anew: bool = True) -> int:
        """The command's exit status, or minus the signal that ended it; `anew` in the world as it
        was made.
        """
        if anew:
            shutil.rmtree(self.world, ignore_errors=True)
            shutil.copytree(self.pristine, self.world)
        return forked(lambda: command(self.arguments, self.world, kill), self.log)

    def all(self, stride: int) -> dict:
        assert self.run() == 0, self.log.read_text()
        expected, operations = (
            seen_in(self.world, self.place),
            int(Path(f"{self.world}.count").read_text()),
        )
        faults, kills = [], 0
        for number in range(min(max(1, stride // 2), operations), operations + 1, stride):
            for when in ("before", "after"):
                kills += self.run(f"{number} {when}") == -signal.SIGKILL
                status = self.run(anew=False)
                if fault := self.fault(status, expected):
                    faults.append({"kill": f"{number} {when}", **fault})
        return {"operations": operations, "kills": kills, "faults": faults}

    def fault(self, status: int, expected: dict[str, object]) -> dict | None:
        """What is not as after the undisturbed run."""
        found, said = seen_in(self.world, self.place), self.log.read_text()
        there = "holds batch files already" in said and status == 2
        if not status and found == expected or there and found == expected:
            return None
        odd = sorted(name for name in found | expected if found.get(name) != expected.get(name))
        return {
            "status": status,
            "said": said[-500:] if status else "",
            "found": {name: str(found.get(name))[:200] for name in odd[:3]},
        }


def served(folder: Path) -> str:
    """The address of a language model's server, in a process of its own that ends with this one."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        from tests.llm_server import LlmServer
        from tests.shard_folder import make_vocabulary

        names = make_vocabulary(SEEN, UNSEEN).names
        with LlmServer({name: [(names[0], "synonymy", "High")] for name in names}) as server:
            os.write(writing, server.url.encode())
            parent = os.getppid()
            while os.getppid() == parent:
                time.sleep(0.2)
        os._exit(0)
    return os.read(reading, 1000).decode()


if __name__ == "__main__":
    import torch

    for name in (
        "c2srt.cluster.cli",
        "c2srt.tracking.mlflow_sink",
        "c2srt.cluster.evaluate",
        "c2srt.cluster.teacher",
    ):
        import_module(name)  # so that no forked process has to
    torch.set_num_threads(1)
    os.environ |= {"OPENAI_API_KEY": "sk-loopback-0123456789"}
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]), sys.argv[3:])
