"""Ctrl-C, as a terminal sends it: to every process of the command at once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from c2srt import interrupts
from c2srt.train.config import Config
from tests.raw_images import jpeg, name, write_csvs, write_folder
from tests.train_case import make_case
from tests.train_command import (
    as_from_a_terminal,
    command,
    end,
    ended,
    family,
    launch,
    newest,
    ranks,
    wait_until,
)

ROOT = Path(__file__).parents[1]


def ctrl_c(process: psutil.Popen | subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGINT)  # launched in a session of its own


# --- the mechanism, on commands that wait for ever

WAITS = {
    "in Python": "time.sleep(600)",
    "for threads": "with ThreadPoolExecutor(1) as pool: pool.submit(time.sleep, 600).result()",
    "in C": (
        "lock = ctypes.create_string_buffer(64); [ctypes.CDLL(None).pthread_mutex_lock(lock) for _"
        " in range(2)]"
    ),
    "for threads, at its end": (
        "threading.Thread(target=time.sleep, args=(600,)).start(); time.sleep(600)"
    ),
    "for a process": (
        "with without_sigint(): child = multiprocessing.get_context('spawn').Process("
        "target=time.sleep, args=(600,)); child.start()\n    child.join()"
    ),
}
COMMAND = """
import ctypes, multiprocessing, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from c2srt import command, interrupts
from c2srt.interrupts import without_sigint
from c2srt.cluster.cli import VERBS
interrupts.GRACE_S = 2
def run_verb(verbs, verb, arguments):
    print("begun", flush=True)
    {wait}
if __name__ == "__main__":
    command.run_verb = run_verb
    sys.exit(command.main(VERBS, ["{verb}"]))
"""


def waiting(tmp_path: Path, wait: str, verb: str = "text") -> subprocess.Popen:
    """A command that waits, once it does."""
    script = tmp_path / "command.py"
    script.write_text(COMMAND.format(wait=wait, verb=verb))
    process = subprocess.Popen(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=as_from_a_terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize(
    "number, verb, status, word",
    (
        (signal.SIGINT, "text", 130, "interrupted"),
        (signal.SIGTERM, "text", 143, "told to end"),
        (signal.SIGTERM, "train", 75, "told to end"),
        (signal.SIGUSR1, "train", 75, "told to end"),
    ),
)
def test_a_command_that_waits_ends_with_one_sentence(tmp_path, wait, number, verb, status, word):
    if number != signal.SIGINT and wait not in (WAITS["in Python"], WAITS["in C"]):
        pytest.skip("what it waits for makes no difference to the signal's number")
    process = waiting(tmp_path, wait, verb)
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_SLEEPING, "its wait")
    ctrl_c(process) if number == signal.SIGINT else process.send_signal(number)
    _, said = process.communicate()
    assert (
        process.returncode == status
        and said == f"c2srt {verb}: {word}; run the same command again to go on\n"
    )


TASKS = """
import asyncio, os
from c2srt.interrupts import run_tasks
ended = []
async def task(number):
    try:
        await asyncio.sleep(0)
        if number == 2:
            os.kill(os.getpid(), {number})  # heard inside this very task
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(0)
        ended.append(number)
async def tasks():
    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(task(number))
try:
    run_tasks(tasks())
finally:
    print(sorted(ended), flush=True)
"""


@pytest.mark.parametrize(
    "number, status, word",
    ((signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "told to end")),
)
def test_all_tasks_end_in_order_when_one_of_them_hears_the_signal(tmp_path, number, status, word):
    process = waiting(tmp_path, TASKS.strip().format(number=int(number)).replace("\n", "\n    "))
    printed, said = process.communicate()
    assert (
        process.returncode == status
        and said == f"c2srt text: {word}; run the same command again to go on\n"
    )
    assert printed == "[0, 1, 2, 3]\n"


def test_what_a_command_forked_dies_of_sigterm_at_once(tmp_path):
    """A pool ends its workers with SIGTERM: they must not take it for the command's."""
    process = waiting(
        tmp_path,
        "child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,));"
        " child.start()\n    child.terminate(); child.join(); print(child.exitcode, flush=True)",
    )
    assert process.stdout.readline() == f"{-signal.SIGTERM}\n" and process.communicate()[1] == ""


def test_a_second_one_ends_a_command_that_would_take_its_time(tmp_path):
    wait = (
        "with interrupts.patiently():\n        try: print('inside', flush=True), time.sleep(600)\n "
        "       "
    )
    wait += "finally: print('once', flush=True), time.sleep(600)"
    process = waiting(tmp_path, wait)
    assert process.stdout.readline() == "inside\n"
    ctrl_c(process)
    ctrl_c(process)  # as `timeout -s INT` does: these are one
    assert process.stdout.readline() == "once\n"
    time.sleep(2 * interrupts.SAME_S)
    assert process.poll() is None
    ctrl_c(process)
    _, said = process.communicate()
    assert process.returncode == 130 and "Traceback" not in said


LOADING = """
import sys, time
class Slow:
    def find_spec(self, module, *_):
        if module == "{module}":
            print("begun", flush=True)
            time.sleep(600)
sys.meta_path.insert(0, Slow())
"""
CONSOLE = "from c2srt.entry import main; sys.exit(main())"
JOB = (
    "import runpy; sys.argv[:] = ['-m', 'text']; runpy.run_module('c2srt.cluster.shard',"
    " run_name='__main__')"
)


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
@pytest.mark.parametrize(
    "module, start",
    (("c2srt.cluster.cli", CONSOLE), ("c2srt.executor", JOB)),
    ids=("c2srt", "python -m c2srt.cluster.shard"),
)
def test_one_while_the_first_modules_load_is_no_traceback(module, start, number):
    process = subprocess.Popen(
        [sys.executable, "-c", LOADING.format(module=module) + start],
        cwd=ROOT,
        preexec_fn=as_from_a_terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    assert (
        process.communicate()[1] == "c2srt: interrupted before it began\n"
        and process.returncode == 128 + number
    )


# --- a training


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Config:
    return make_case(tmp_path_factory.mktemp("interrupts"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_training_saves_ends_its_mlflow_run_and_goes_on_the_next_time(case, tmp_path):
    import mlflow

    log, out = tmp_path / "log", Path(case.work) / "interrupted"
    process = launch(command(case, out.name, "epochs=2000", "log_every=1"), log)
    try:
        wait_until(lambda: newest(out) >= 3, "step 3", process)
        ctrl_c(process)
        said = ended(process, 130, log)
    finally:
        end(process)
    saved, summary = newest(out), json.loads((out / "train.json").read_text())
    assert (
        f"stopped after step {saved:,} of" in said
        and "saved; run the same command to go on" in said
    )
    assert said.count("SIGINT: the workers finish their step and save; once more ends at once") == 1
    assert (
        "Traceback" not in said
        and "attempt failed" not in said
        and not (out / "failures.jsonl").exists()
    )
    assert summary["state"] == "stopped" and summary["step"] == saved
    client = mlflow.MlflowClient(f"sqlite:///{case.work}/mlflow.db")
    assert (
        client.get_run(json.loads((out / "run.json").read_text())["run_id"]).info.status == "KILLED"
    )
    said = ended(launch(command(case, out.name, "epochs=2000", f"steps={saved + 2}"), log), 0, log)
    assert f"of which {saved} are done" in said and "finished:" in said


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_second_one_ends_a_training_that_cannot_save_and_leaves_no_process(case, tmp_path):
    log, out = tmp_path / "log", Path(case.work) / "twice"
    process = launch(command(case, out.name, "epochs=2000", "collective_timeout=500"), log)
    try:
        wait_until(lambda: newest(out) >= 3, "step 3", process)
        everyone = family(process)
        ranks(process)[-1].suspend()
        ctrl_c(process)
        wait_until(lambda: "once more ends at once" in log.read_text(), "the first one", process)
        psutil.wait_procs([process], 1)
        assert process.poll() is None
        ctrl_c(process)
        said = ended(process, 130, log, 60)
        _, left = psutil.wait_procs(everyone, 30)
        assert not [
            one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE
        ]
    finally:
        end(process)
    assert "Traceback" not in said


# --- tasks under Ray


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_job_of_ray_tasks_ends_with_130_and_goes_on_the_next_time(tmp_path):
    numbers = range(400)
    write_csvs(tmp_path / "raw", {"test": [{"id": name(number)} for number in numbers]})
    write_folder(
        tmp_path / "raw", "test", {name(number): jpeg(number, 640, 480) for number in numbers}
    )
    arguments = [
        sys.executable,
        "-m",
        "c2srt.cluster.shard",
        "data=openimages",
        f"data.root={tmp_path}/raw",
        f"work={tmp_path}",
        "splits=[test]",
        "images_per_shard=5",
        "workers=2",
    ]
    log, shards = tmp_path / "log", tmp_path / "shards"
    process = launch(arguments, log)
    try:
        wait_until(lambda: list(shards.glob("test-*.tar")), "the first shard", process)
        ctrl_c(process)
        said = ended(process, 130, log)
    finally:
        end(process)
    assert said.splitlines()[-1] == "c2srt shard: interrupted; run the same command again to go on"
    assert "Traceback" not in said and not (shards / "index.json").exists()
    assert "shards are in" in ended(launch(arguments, log), 0, log)
    assert not list(shards.rglob("*.tmp-*"))
