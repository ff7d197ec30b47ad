"""Every executor does the same: this process, processes of this machine, a Ray cluster."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from c2srt.cluster.executor import open_executor
from c2srt.errors import UserError
from c2srt.executor import FEW_IMAGES, Executor, Here, open_local
from c2srt.hints import running
from c2srt.processes import DIED, RETRIES, Processes, gpus_of, kept
from tests import executor_tasks as tasks
from tests.raw_images import digests, jpeg, name, write_csvs, write_folder
from tests.train_command import end, ended, launch, wait_until

ROOT = Path(__file__).parents[1]


@pytest.fixture(params=["here", "processes", "ray"])
def executor(request) -> Iterator[Executor]:
    if request.param == "ray":
        request.getfixturevalue("shared_ray")
        with open_executor(2, 8, 1000) as found:
            assert type(found).__name__ == "RayExecutor"
            yield found
    else:
        with open_local(1, 8, 1000) if request.param == "here" else Processes(2) as found:
            yield found


def processes_only(executor: Executor) -> None:
    if isinstance(executor, Here):
        pytest.skip("its process is the command's")


# --- what all do


def test_every_item_comes_back_with_its_result(executor):
    found = dict(executor.map(tasks.squares, iter(range(7))))
    assert sorted(found) == list(range(7))
    assert all(np.array_equal(found[number], tasks.squares(number)) for number in range(7))
    assert list(executor.map(tasks.squares, [])) == []


def test_a_shared_value_and_the_command_that_runs_are_known_to_a_task(executor):
    found = dict(executor.map(partial(tasks.power, executor.share(3)), range(5), on_gpu=True))
    assert found == {number: 3**number for number in range(5)}
    with running("shard", ("data=nuswide", "resize=3")):
        printed = dict(
            executor.map(tasks.printed_command, ["audit"], lambda verb: f"name of {verb}")
        )
    assert printed == {"audit": "c2srt audit data=nuswide"}


def test_results_are_the_same_bits_everywhere(executor):
    expected = dict(Here().map(tasks.summed, range(3)))
    assert dict(executor.map(tasks.summed, range(3))) == expected


def test_a_user_error_is_its_sentence(executor):
    with pytest.raises(UserError) as raised:
        list(executor.map(tasks.refuse, range(6)))
    assert str(raised.value) == "the second one is bad: mend it"
    assert dict(executor.map(tasks.squares, [0])) == {0: pytest.approx([])}, "it can be used again"


def test_any_other_error_is_itself_and_says_where(executor):
    with pytest.raises(ZeroDivisionError) as raised:
        list(executor.map(tasks.fault, [0]))
    notes = "".join(getattr(raised.value, "__notes__", [])) + str(raised.value)
    assert "in fault" in notes or isinstance(executor, Here)
    with pytest.raises(OSError) as full:
        list(executor.map(tasks.no_room, ["/dev/full"]))
    assert "No space left" in str(full.value)


def test_a_killed_process_costs_one_task_s_time(executor, tmp_path):
    processes_only(executor)
    assert dict(executor.map(partial(tasks.die_once, tmp_path), range(6))) == {
        number: number for number in range(6)
    }
    assert (tmp_path / "died").exists()


def test_a_task_that_kills_every_process_is_a_sentence(executor):
    processes_only(executor)
    with pytest.raises(UserError) as raised:
        list(executor.map(tasks.die, [1]))
    assert str(raised.value) == DIED


def test_a_loader_that_fails_is_started_again(executor, tmp_path):
    for times in (1, RETRIES, RETRIES + 1):
        (folder := tmp_path / str(times)).mkdir()
        found = executor.map(partial(tasks.fail_loading, folder, times), [5])
        if times <= RETRIES:
            assert list(found) == [(5, 5)]
        else:
            with pytest.raises(UserError, match="a loader process died"):
                list(found)


# --- processes


def test_they_end_with_the_context_and_no_task_is_left():
    with pytest.raises(KeyboardInterrupt), Processes(2) as executor:
        for _ in executor.map(time.sleep, [0, 600, 600]):
            children = [psutil.Process(worker.process.pid) for worker in executor.workers]
            raise KeyboardInterrupt
    _, left = psutil.wait_procs(children, 5)
    assert not left


def test_they_end_when_the_command_is_killed():
    program = "\n".join(
        (
            "import time",
            "from c2srt.processes import Processes",
            "with Processes(2) as executor:",
            "    for _ in executor.map(time.sleep, [0, 600, 600]):",
            "        print('begun', flush=True)",
        )
    )
    command = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert command.stdout.readline() == "begun\n"
    children = psutil.Process(command.pid).children(recursive=True)
    command.kill()
    command.wait()
    _, left = psutil.wait_procs(children, 30)
    assert children and not left


def pids_of_a_job() -> set[int]:
    with open_local(2, 9, 1000) as executor:
        return {pid for _, pid in executor.map(tasks.own_pid, range(4))}


def test_kept_processes_serve_the_next_job_and_end_with_the_context():
    assert not pids_of_a_job() & pids_of_a_job()
    with kept():
        first = pids_of_a_job()
        with kept():
            assert pids_of_a_job() == first
        assert all(map(psutil.pid_exists, first))
        os.kill(min(first), signal.SIGKILL)
        assert len(pids_of_a_job() & first) == 1, "the dead one is started again"
        with pytest.raises(UserError), open_local(2, 9, 1000) as executor:
            list(executor.map(tasks.refuse, range(6)))
        last = pids_of_a_job()
    assert len(last) == 2 and not any(map(psutil.pid_exists, first | last))


def test_processes_with_a_gpu_are_not_kept(monkeypatch):
    monkeypatch.setattr("c2srt.processes.visible_gpus", lambda: ["0", "1"])
    with kept():
        with Processes(2, None) as executor:
            dict(executor.map(tasks.squares, range(2)))
            children = [worker.process.pid for worker in executor.workers]
        assert not any(map(psutil.pid_exists, children))


def test_gpus_are_dealt_and_too_few_refused(monkeypatch):
    monkeypatch.setattr("c2srt.processes.visible_gpus", lambda: ["4", "5", "6", "7"])

    def dealt(workers: int, each: float | None) -> list[str | None]:
        return [found.get("CUDA_VISIBLE_DEVICES") for found in gpus_of(workers, each)]

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert dealt(2, 0) == [None, None]
    assert dealt(2, None) == ["4", "6"] and dealt(8, None) == [*"44556677"]
    assert dealt(2, 2) == ["4,5", "6,7"] and dealt(4, 0.5) == [*"4567"]
    with pytest.raises(
        UserError, match="3 workers of 1 CPUs and 2 GPUs, and this machine has room"
    ):
        gpus_of(3, 2)
    monkeypatch.setattr("c2srt.processes.visible_gpus", list)
    assert dealt(2, None) == [None, None]
    with pytest.raises(UserError, match="has room for 0"), open_local(1, 1, 1, 1):
        pass


def test_small_jobs_stay_in_this_process(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for size in ((1, 9, 10**6), (8, 1, 10**6), (8, 9, FEW_IMAGES)):
        with open_executor(*size) as executor:
            assert isinstance(executor, Here)
    with open_executor(8, 3, FEW_IMAGES + 1) as executor:
        assert isinstance(executor, Processes) and len(executor.workers) == 3


# --- a whole job


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Eighty photos, a few of them large enough to take a while."""
    root = tmp_path_factory.mktemp("raw")
    write_csvs(root, {"test": [{"id": name(number)} for number in range(80)]})
    write_folder(root, "test", {name(number): jpeg(number, 900, 700) for number in range(80)})
    return root


def shard_command(raw: Path, out: Path, *more: str) -> list[str]:
    keys = ["data=openimages", f"data.root={raw}", f"out={out}", "splits=[test]"]
    return [
        sys.executable,
        "-m",
        "c2srt.cluster.shard",
        *keys,
        "data.vocabulary=files",
        "images_per_shard=5",
        *more,
    ]


@pytest.fixture(scope="module")
def without(tmp_path_factory) -> Callable[..., dict[str, str]]:
    """The environment of a command in which some libraries cannot be imported."""

    def environment(*libraries: str) -> dict[str, str]:
        site = tmp_path_factory.mktemp("site")
        for library in libraries:
            text = "raise AssertionError('it is imported')"
            (site / f"{library}.py").write_text(text, encoding="utf-8")
        ours = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        return ours | {"PYTHONPATH": f"{site}:{ROOT}"}

    return environment


@pytest.fixture(scope="module")
def one(raw, without, tmp_path_factory) -> Path:
    """The shards that one worker makes, without Ray and torch."""
    out = tmp_path_factory.mktemp("one") / "shards"
    subprocess.run(
        shard_command(raw, out, "workers=1"), cwd=ROOT, env=without("ray", "torch"), check=True
    )
    return out


@pytest.mark.parametrize("where", ("processes", "ray"))
def test_shards_are_the_same_bytes(raw, one, where, request, tmp_path, monkeypatch):
    from c2srt.cluster.cli import main

    if where == "ray":
        request.getfixturevalue("shared_ray")
    else:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    arguments = shard_command(raw, tmp_path / "shards", "workers=2")[3:]
    assert main(["shard", *arguments]) == 0
    assert digests(tmp_path / "shards") == digests(one)


@pytest.mark.parametrize("workers", (1, 2))
@pytest.mark.parametrize("number, status", ((signal.SIGINT, 130), (signal.SIGKILL, -9)))
def test_an_ended_job_leaves_no_process_and_goes_on(raw, one, tmp_path, workers, number, status):
    out, log = tmp_path / "shards", tmp_path / "log"
    arguments = shard_command(raw, out, f"workers={workers}")
    process = launch(arguments, log)
    try:
        wait_until(lambda: list(out.glob("test-*.tar")), "the first shard", process)
        everyone = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, number)
        said = ended(process, status, log)
        _, left = psutil.wait_procs(everyone, 20)
        assert not left
    finally:
        end(process)
    assert "Traceback" not in said and not (out / "index.json").exists()
    if number == signal.SIGINT:
        assert said.splitlines()[-1] == (
            "c2srt shard: interrupted; run the same command again to go on"
        )
    assert "shards are in" in ended(launch(arguments, log), 0, log)
    assert digests(out) == digests(one) and not list(out.rglob("*.tmp-*"))


def test_a_few_images_need_no_ray_and_give_the_same_bytes(without, tmp_path, monkeypatch):
    """Teacher and evaluation, in the command's own process and in others."""
    from c2srt.cluster.cli import main
    from c2srt.text import Config as TextConfig, run as write_text
    from tests.shard_folder import make_shards, make_vocabulary
    from tests.tiny import tiny_clip_config

    make_shards(tmp_path / "shards", {"train": 19, "test": 19}, 8, make_vocabulary(12, 4))
    clip = tiny_clip_config(tmp_path)
    write_text(TextConfig(clip, ["a {}."], {}, f"{tmp_path}/shards", f"{tmp_path}/text"))
    keys = [f"shards={tmp_path}/shards", f"clip.name={clip.name}", "clip.pretrained=random"]
    verbs = {
        "teacher": [*keys, "views.count=2"],
        "evaluate": [*keys, f"text={tmp_path}/text", "checkpoint=clip", "topk=[2]"],
    }
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for verb, arguments in verbs.items():
        subprocess.run(
            [sys.executable, "-m", f"cluster.{verb}", *arguments, f"out={tmp_path}/here/{verb}"],
            cwd=ROOT,
            env=without("ray"),
            check=True,
        )
    monkeypatch.setattr("c2srt.executor.FEW_IMAGES", 0)
    for verb, arguments in verbs.items():
        assert main([verb, *arguments, f"out={tmp_path}/processes/{verb}"]) == 0
    found = digests(tmp_path / "here")
    assert {"teacher/teacher.json", "evaluate/results.json"} <= set(found)
    assert digests(tmp_path / "processes") == found
