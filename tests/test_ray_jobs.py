"""`ray job submit` on a running cluster with a token, what is sent with it, and the KubeRay
manifest.
"""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import httpx2
import jsonschema
import pytest
import yaml

from c2srt.cluster.paths import check_lasting
from c2srt.errors import UserError
from tests.schemas.kuberay import RAY_JOB
from tests.train_case import make_case
from tests.train_command import command, end, launch, newest, wait_until

ROOT = Path(__file__).parents[1]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
TOKEN = "0123456789abcdef" * 4
MIB = 2**20


# --- what is sent


def packed(target: Path) -> dict[str, int]:
    """The files that Ray would send for `--working-dir .`, with their sizes."""
    from ray._private.runtime_env.packaging import create_package

    create_package(str(ROOT), target, include_gitignore=True)
    return {entry.filename: entry.compress_size for entry in zipfile.ZipFile(target).infolist()}


def test_the_working_directory_that_is_sent_is_code_only_and_small(tmp_path):
    target = tmp_path / "package.zip"
    found = packed(target)
    assert target.stat().st_size < 10 * MIB
    assert {"cluster/train/__main__.py", "c2srt/command.py", "configs/train.yaml"} <= set(found)
    assert "c2srt/data_files/relations_openimages_v4.jsonl.gz" in found
    assert "c2srt/data_files/miniature_clip.safetensors" in found
    kept_back = (".git/", ".venv/", "runs/", "tests/", "mlruns/")
    assert not [
        name
        for name in found
        if name.startswith(kept_back)
        or (name.endswith((".tar", ".safetensors", ".db")) and "/data_files/" not in name)
    ]


def test_results_never_go_into_the_copy_of_the_code_that_ray_throws_away(tmp_path, monkeypatch):
    copied = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0"
    copied.mkdir(parents=True)
    monkeypatch.chdir(copied)
    with pytest.raises(UserError, match="an absolute path on shared storage"):
        check_lasting("runs/miniature/train")
    check_lasting(str(tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path)
    check_lasting("runs/miniature/train")


# --- KubeRay


def manifest() -> dict:
    return yaml.safe_load((ROOT / "cluster" / "kuberay.yaml").read_text())


def test_the_kuberay_manifest_passes_the_schema_and_its_command_is_one_of_ours():
    job = manifest()
    jsonschema.validate(job, RAY_JOB)
    python, flag, module, *keys = job["spec"]["entrypoint"].split()
    assert (python, flag) == ("python", "-m") and find_spec(f"{module}.__main__")
    from c2srt.cluster.train import Config
    from c2srt.compose import to_config
    from tests.verbs import compose_verb

    config = to_config(Config, compose_verb("train", keys))
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = [group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in groups]
    assert config.workers == sum(
        group["replicas"] * limit["nvidia.com/gpu"]
        for group, limit in zip(groups, limits, strict=True)
    )
    assert all(
        int(limit["cpu"]) >= limit["nvidia.com/gpu"] * config.resources.cpus_per_worker
        for limit in limits
    )


@pytest.mark.parametrize(
    "path, value",
    (
        (("spec", "submissionMode"), "SubmitMode"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 1),
        (
            (
                "spec",
                "rayClusterSpec",
                "workerGroupSpecs",
                0,
                "template",
                "spec",
                "containers",
                0,
                "resources",
                "limits",
                "cpu",
            ),
            "many",
        ),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "password"),
        (("spec", "entryPoint"), "python"),
    ),
)
def test_the_schema_refuses_what_kuberay_would_refuse(path, value):
    job = copy.deepcopy(manifest())
    place = job
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, RAY_JOB)


# --- jobs on a running cluster


class Said(str):
    """What a command printed, with its exit status."""

    status: int


@dataclass(frozen=True)
class Head:
    """A Ray head with dashboard and jobs API on loopback."""

    dashboard: str
    environment: dict[str, str]

    def ray(self, *arguments: str, status: int | None = 0) -> Said:
        found = subprocess.run(
            [*RAY, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
            cwd=ROOT,
        )
        said = Said(found.stdout + found.stderr)
        said.status = found.returncode
        assert status is None or said.status == status, (arguments, said[-4000:])
        return said

    def submit(
        self, *arguments: str, status: int | None = 0, wait: bool = True, name: str | None = None
    ) -> Said:
        options = [
            "--runtime-env",
            "cluster/runtime_env.yaml",
            "--working-dir",
            ".",
            "--log-color",
            "false",
        ]
        options += [] if wait else ["--no-wait"]
        options += ["--submission-id", name] if name else []
        command = [
            "job",
            "submit",
            "--address",
            self.dashboard,
            *options,
            "--",
            "python",
            "-m",
            *arguments,
        ]
        for _ in range(20):  # the agent that takes jobs is up later than the dashboard
            said = self.ray(*command, status=None)
            if "No available agent" not in said:
                break
            time.sleep(3)
        assert status is None or said.status == status, said[-4000:]
        return said


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Iterator[Head]:
    from ray._common.network_utils import find_free_port

    port, dashboard, agent = (
        find_free_port() for _ in range(3)
    )  # another Ray may have the agent's usual one
    short = f"/tmp/rj{os.getpid()}"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    found = Head(f"http://127.0.0.1:{dashboard}", environment)
    start = [
        *RAY,
        "start",
        "--head",
        "--block",
        "--node-ip-address=127.0.0.1",
        f"--port={port}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}",
        "--num-cpus=4",
        f"--temp-dir={short}",
        "--object-store-memory=100000000",
        "--disable-usage-stats",
    ]
    log = tmp_path_factory.mktemp("head") / "log"
    process = launch(start, log, **environment)
    try:
        for _ in range(4):  # Ray gives itself 30 s to start, whatever the machine is busy with
            wait_until(
                lambda process=process: process.poll() is not None or answers(found),
                "the jobs API",
                seconds=180,
            )
            if process.poll() is None:
                break
            process = launch(start, log, **environment)
        yield found
    finally:
        end(process)
        shutil.rmtree(short, ignore_errors=True)


def answers(head: Head) -> bool:
    """Whether the jobs API does."""
    try:
        httpx2.get(head.dashboard, timeout=5)
    except httpx2.TransportError:
        return False
    return "rror" not in head.ray("job", "list", "--address", head.dashboard, status=None)


@pytest.mark.slow
def test_without_the_token_nobody_can_submit(head):
    stranger = Head(head.dashboard, head.environment | {"RAY_AUTH_TOKEN": "f" * 64})
    said = stranger.ray("job", "list", "--address", head.dashboard, status=None)
    assert "oken" in said or "401" in said or "403" in said, said[-2000:]


LISTENERS = """
import psutil, ray
from c2srt.cluster.session import join, run_tasks
join(1)
list(run_tasks(lambda item: item, [1], 1))
found = [(member.name(), place.laddr.ip) for member in psutil.Process().children(recursive=True)
         for place in member.net_connections("tcp") if place.status == psutil.CONN_LISTEN]
print("FOUND", sorted({address for _, address in found}), len(found))
"""


def test_a_local_ray_listens_on_loopback_only():
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    said = subprocess.run(
        [sys.executable, "-c", LISTENERS], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    found = next(
        (line for line in said.stdout.splitlines() if line.startswith("FOUND")),
        said.stdout + said.stderr,
    )
    assert re.fullmatch(
        r"FOUND \['(127\.0\.0\.1|::ffff:127\.0\.0\.1)'(, '::ffff:127\.0\.0\.1')?\] \d+", found
    ), found


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return make_case(tmp_path_factory.mktemp("jobs"))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_shard_and_audit_as_submitted_jobs(head, tmp_path):
    from tests.raw_images import jpeg, name, write_csvs, write_folder

    numbers = {"train": range(12), "test": range(12, 16)}
    write_csvs(
        tmp_path / "raw",
        {split: [{"id": name(number)} for number in found] for split, found in numbers.items()},
    )
    for split, found in numbers.items():
        write_folder(tmp_path / "raw", split, {name(number): jpeg(number) for number in found})
    keys = [
        "data=openimages",
        f"data.root={tmp_path}/raw",
        f"shards={tmp_path}/shards",
        f"work={tmp_path}",
    ]
    said = head.submit(
        "c2srt.cluster.shard",
        *keys,
        "splits=[train,test]",
        "resize=48",
        "images_per_shard=4",
        "workers=2",
    )
    assert "packed" in said and "shard 100 %" in said and f"shards are in {tmp_path}/shards" in said
    assert "all agree" in head.submit("c2srt.cluster.audit", *keys, "workers=2")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_path_into_the_job_s_copy_is_refused(head, case):
    said = head.submit(*train(case, "relative", "out=runs/relative"), status=1)
    assert "an absolute path on shared storage" in said


def train(case, name: str, *more: str) -> list[str]:
    return command(case, name, *more)[2:]


@pytest.mark.long  # in CI: a submitted job that is refused, above
@pytest.mark.timeout(2400)
def test_train_stopped_resumed_evaluated_and_exported_as_submitted_jobs(head, case):
    shards = [f"work={case.work}", f"clip.name={case.clip.name}", "clip.pretrained=random"]
    said = head.submit(
        "c2srt.cluster.teacher",
        *shards,
        f"out={case.work}/teacher",
        "views.count=2",
        "workers=2",
        "batch=4",
    )
    assert "teacher 100 %" in said
    out = Path(case.work) / "jobs"
    keys = train(
        case, "jobs", "epochs=2000", f"teacher={case.work}/teacher", "log_every=1", "workers=2"
    )
    head.submit(*keys, wait=False, name="first")
    wait_until(lambda: newest(out) >= 3, "step 3", seconds=600)
    head.ray("job", "stop", "--address", head.dashboard, "first")
    logs = head.ray("job", "logs", "--address", head.dashboard, "first")
    assert (
        "SIGTERM: the workers finish their step and save" in logs
        and "run the same command to go on" in logs
    )
    saved = newest(out)
    assert json.loads((out / "train.json").read_text())["step"] == saved
    said = head.submit(*keys, f"steps={saved + 2}")
    assert f"of which {saved} are done" in said and "finished:" in said
    head.submit(
        "c2srt.cluster.evaluate",
        *shards,
        f"text={case.text}",
        f"checkpoint={out}/model",
        "split=validation",
        "topk=[1]",
        f"out={case.work}/evaluation",
        "workers=2",
    )
    assert (Path(case.work) / "evaluation" / "results.json").exists()
    head.submit("c2srt.cluster.export", *shards, f"checkpoint={out}", f"out={case.work}/export")
    assert (Path(case.work) / "export" / "model.safetensors").read_bytes() == (
        out / "model" / "model.safetensors"
    ).read_bytes()
