"""What happens when something breaks: detected, logged with its cause, and recovered from or ended
with one sentence.
"""

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch

from c2srt.cluster.lock import hold_as_rank, wait_for_earlier_ranks
from c2srt.code import source_hash
from c2srt.compose import to_config
from c2srt.errors import UserError
from c2srt.lock import LOCK, only_command
from c2srt.shard_reader import ShardReader
from c2srt.shards import load_index
from c2srt.train.config import Config
from c2srt.train.key_groups import FaultConfig
from c2srt.train.sample_log import SAMPLES, read_samples
from tests.ranks import run_ranks
from tests.train_case import make_case, told, train_rank
from tests.train_command import command, end, ended, launch, loaders, newest, ranks, wait_until
from tests.verbs import compose_verb

HOLDER = (
    "import sys, time; from pathlib import Path; from c2srt.lock import *; from c2srt.cluster.lock"
    " import *\n"
)


# --- one writer at a time


@contextmanager
def other_process(code: str) -> Iterator[subprocess.Popen]:
    """Another process that runs `code`, prints a line and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{HOLDER}{code}"], stdout=subprocess.PIPE, text=True
    )
    try:
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_second_training_in_the_same_folder_is_refused_until_the_first_has_gone(tmp_path):
    with other_process(
        f"with only_command(Path('{tmp_path}') / LOCK): print('held', flush=True); time.sleep(60)"
    ) as first:
        with (
            pytest.raises(UserError, match=f"another command is writing {tmp_path} .* {first.pid}"),
            only_command(tmp_path / LOCK),
        ):
            pass
        first.kill()
        first.wait()
        with only_command(tmp_path / LOCK):
            pass


def test_a_rank_that_an_earlier_attempt_left_behind_holds_the_next_one_up_even_stopped(tmp_path):
    with only_command(tmp_path / LOCK) as lock:
        wait_for_earlier_ranks(lock, 0)
        with other_process(
            f"hold_as_rank(Path('{tmp_path}')); print('held', flush=True); time.sleep(60)"
        ) as rank:
            rank.send_signal(signal.SIGSTOP)
            with pytest.raises(UserError, match="workers of an earlier attempt still write"):
                wait_for_earlier_ranks(lock, 0.3)
            rank.kill()
            wait_for_earlier_ranks(lock, 10)


# --- attempts on a real Ray of two nodes, with ranks that do little


@pytest.fixture(scope="module")
def ray_cluster():
    """A head without CPUs, so that ranks go to the node that a test adds."""
    import ray
    from ray.cluster_utils import Cluster

    found = patiently(
        lambda: Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
    )
    os.environ["RAY_ADDRESS"] = found.address
    ray.init(address=found.address, log_to_driver=False, logging_level="error")
    yield found
    ray.shutdown()
    found.shutdown()


def patiently(start: Callable, attempts: int = 5):
    """Ray gives a node 30 s to start, whatever the machine is busy with."""
    from c2srt.cluster.patience import patient

    for left in reversed(range(attempts)):
        try:
            with patient(300):
                return start()
        except Exception as error:
            if "timed out during startup" not in str(error) or not left:
                raise


def plain_config(folder: Path, **changes: object) -> Config:
    """A config for ranks that read no inputs."""
    base = Config(
        shards="",
        text="",
        relations="",
        teacher="",
        work=str(folder),
        out=str(folder),
        workers=2,
        faults=FaultConfig(start_timeout=3, collective_timeout=30),
    )
    return told(base, **changes)


def attempts_so_far(folder: Path) -> int:
    """Counts the calls, on one rank."""
    path = folder / "calls"
    path.write_text(f"{path.read_text() if path.exists() else ''}x")
    return len(path.read_text())


def checkpoint(folder: Path, step: int) -> None:
    """What looks like a whole checkpoint."""
    (folder / "checkpoints" / f"step-{step:08}").mkdir(parents=True)
    (folder / "checkpoints" / f"step-{step:08}" / "complete.json").write_text("{}")


def dying_rank(told: dict) -> None:
    """Rank 1 is killed without progress, then after some, then both raise, then rank 0 raises,
    without progress.
    """
    from ray.train import get_context
    from torch import distributed

    folder, rank = told["config"].folder, get_context().get_world_rank()
    hold_as_rank(folder)
    number = attempts_so_far(folder) if rank == 0 else None
    (folder / f"tags-{rank}").write_text(json.dumps(told["tags"]))
    numbers = [None, None]
    distributed.all_gather_object(numbers, number)
    number = numbers[0]
    if number == 2 and rank == 0:
        checkpoint(folder, 7)
    distributed.barrier()
    if number <= 2 and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 3:
        raise ValueError(f"no luck on rank {rank}")
    distributed.barrier()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_failures_are_counted_only_while_no_newer_checkpoint_is_written(ray_cluster, tmp_path):
    from c2srt.cluster.attempts import run_attempts

    node = patiently(lambda: ray_cluster.add_node(num_cpus=2))
    try:
        with only_command(tmp_path / LOCK) as lock, pytest.raises(UserError) as raised:
            run_attempts(plain_config(tmp_path, max_failures=1), lock, dying_rank)
    finally:
        ray_cluster.remove_node(node)
    assert "failed 2 times in a row without a newer checkpoint than step 7" in str(raised.value)
    assert "max_failures=1" in str(raised.value) and "ValueError: no luck on rank 0" in str(
        raised.value
    )
    found = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert [failure["step"] for failure in found] == [0, 7, 7]
    assert all(
        re.match(r"rank 1: its process died \(", failure["cause"]) for failure in found[:2]
    ), found
    tags = json.loads((tmp_path / "tags-0").read_text())
    assert tags["restarts"] == "2" and tags["last_failure"] == found[1]["cause"]
    log = (tmp_path / "train.log").read_text()
    assert (
        "attempt failed (1 in a row without progress): rank 1: its process died" in log
        and "going on from step 7" in log
    )


def rank_whose_node_goes(told: dict) -> None:
    """With two ranks, rank 1's raylet is killed, as if its node had lost power; alone, it is
    done.
    """
    from ray.train import get_context
    from torch import distributed

    folder, context = told["config"].folder, get_context()
    hold_as_rank(folder)
    if context.get_world_size() == 1:
        (folder / "done alone").touch()
        return
    if context.get_world_rank() == 1:
        psutil.Process(os.getppid()).kill()
        time.sleep(120)  # it ends when it misses its raylet
    distributed.barrier()


@pytest.mark.parametrize(
    "least", (pytest.param(1, marks=pytest.mark.slow), pytest.param(None, marks=pytest.mark.long))
)
def test_a_lost_node_is_waited_for_and_then_done_without_or_ends_with_a_sentence(
    ray_cluster, tmp_path, least
):
    from c2srt.cluster.attempts import run_attempts

    nodes = [patiently(lambda: ray_cluster.add_node(num_cpus=1)) for _ in range(2)]
    config = plain_config(tmp_path, min_workers=least)
    try:
        with only_command(tmp_path / LOCK) as lock:
            if least:
                run_attempts(config, lock, rank_whose_node_goes)
                assert (tmp_path / "done alone").exists()
            else:
                with pytest.raises(
                    UserError,
                    match="have room for 1 workers of 1 CPUs and 0 GPUs, and 2 are needed",
                ):
                    run_attempts(config, lock, rank_whose_node_goes)
    finally:
        for node in nodes:
            ray_cluster.remove_node(node)
    failure = json.loads((tmp_path / "failures.jsonl").read_text().splitlines()[0])
    assert failure["workers"] == 2 and re.match(
        "rank 1: its (process or )?node ", failure["cause"]
    ), failure


@pytest.fixture
def other_job(ray_cluster) -> Iterator[Callable[[], None]]:
    """Somebody else's actor holds the one node's CPUs; call it to let go."""
    import ray

    node = patiently(lambda: ray_cluster.add_node(num_cpus=2))
    holder = ray.remote(num_cpus=2)(Holder).remote()
    ray.get(holder.ready.remote())
    yield lambda: ray.kill(holder)
    ray.kill(holder)
    ray_cluster.remove_node(node)


class Holder:
    def ready(self) -> bool:
        return True


def idle_rank(told: dict) -> None:
    hold_as_rank(told["config"].folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_places_that_other_jobs_hold_are_waited_for_and_cost_no_failure(
    ray_cluster, other_job, tmp_path, monkeypatch
):
    """The other job goes once the wait is told: no failure is allowed, and none is counted."""
    from c2srt.cluster import attempts, room

    def told(config: Config, text: str) -> None:
        said.append(text)
        other_job()

    said: list[str] = []
    monkeypatch.setattr(room, "say", told)
    config = plain_config(tmp_path, max_failures=0, start_timeout=600)
    with only_command(tmp_path / LOCK) as lock:
        assert attempts.run_attempts(config, lock, idle_rank) == 0
    assert said[0].startswith("Ray has free places for 0 of 2 workers, other jobs or workers that")
    assert not (tmp_path / "failures.jsonl").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_places_that_others_hold_too_long_end_the_wait_with_a_sentence(
    ray_cluster, other_job, tmp_path, monkeypatch
):
    from c2srt.cluster import attempts

    monkeypatch.setattr(attempts, "PLACE_S", 3)
    config = plain_config(tmp_path, max_failures=0, start_timeout=0)
    with only_command(tmp_path / LOCK) as lock, pytest.raises(UserError) as raised:
        attempts.run_attempts(config, lock, idle_rank)
    assert "2 workers of 1 CPUs and 0 GPUs are needed, and the Ray cluster had no place" in str(
        raised.value
    )
    assert not (tmp_path / "failures.jsonl").exists()
    assert "Ray found no place for 2 workers within 3 s" in (tmp_path / "train.log").read_text()


def test_code_is_known_by_every_python_file_and_config_also_behind_links(tmp_path):
    package, beside = tmp_path / "package", tmp_path / "beside"
    for folder in (package, beside):
        folder.mkdir()
    (package / "a.py").write_text("1")
    (beside / "b.py").write_text("2")
    (package / "beside").symlink_to(beside)
    installed = tmp_path / "installed"
    shutil.copytree(package, installed)
    hashes = [source_hash.__wrapped__(folder) for folder in (package, installed)]
    (beside / "b.py").write_text("3")
    hashes.append(source_hash.__wrapped__(package))
    (package / "c.yaml").touch()
    hashes.append(source_hash.__wrapped__(package))
    (package / "notes.md").touch()
    hashes.append(source_hash.__wrapped__(package))
    assert hashes[0] == hashes[1] and hashes[3] == hashes[4] and len({*hashes}) == 3


def one_with_other_code(rank: int) -> str:
    """What rank 1 of two is told whose files are others."""
    from c2srt.cluster import rank as worker
    from c2srt.train.world import World

    worker.socket.gethostname = lambda: f"n{rank}"
    worker.running_code = lambda: f"version 0.1.0 with sources {rank}"
    try:
        return str(worker.meet(World(rank, 2, 2, torch.device("cpu")), "version"))
    except UserError as error:
        return str(error)


def test_a_node_with_other_code_is_named_before_anything_is_done():
    said = run_ranks(2, one_with_other_code)
    assert said[0] == said[1] and said[0].startswith(
        "node n1 runs version 0.1.0 with sources 1, and n0, the first worker's, version 0.1.0 with"
        " sources 0: bring all nodes to the same commit"
    )


# --- the command itself, on a tiny whole training


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Config:
    return make_case(tmp_path_factory.mktemp("failures"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_stopped_rank_is_noticed_killed_and_replaced(case, tmp_path):
    """SIGSTOP stands for a hung collective: its peers wait in vain, and Ray's health check gets no
    answer. It is said which rank stood where, and who waited. The weights are those of the same
    ranks undisturbed and without Ray, bit for bit.
    """
    log, out = tmp_path / "log", Path(case.work) / "stopped"
    keys = ("epochs=4", "collective_timeout=20")
    process = launch(command(case, "stopped", *keys), log, C2SRT_TMP=str(tmp_path))
    try:
        wait_until(lambda: newest(out) >= 3, "step 3", process)
        victim = ranks(process)[-1]
        victim.suspend()
        began = time.monotonic()
        wait_until(lambda: (out / "failures.jsonl").exists(), "the failure", process, 120)
        print(f"\nsaid {time.monotonic() - began - 20:.1f} s after faults.collective_timeout")
        said = ended(process, 0, log)
        assert not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE
    finally:
        end(process)
    assert "attempt failed (1 in a row without progress)" in said and "finished:" in said
    failure = json.loads((out / "failures.jsonl").read_text())
    assert re.fullmatch(
        rf"rank \d \(node {socket.gethostname()}\) stands in step \d+, [a-z ]+, without a sign of"
        r" life for \d+ s; 1 waits for it in step \d+, in [a-z_]+",
        failure["stood"],
    ), failure
    assert failure["stood"] in said
    (stacks,) = (out / "stacks").glob("*.txt")
    assert "in run_steps" in stacks.read_text()
    assert not list((tmp_path / f"c2srt-{os.getuid()}" / "standing").iterdir())
    calm = to_config(Config, compose_verb("train", command(case, "calm", "epochs=4")[3:]))
    run_ranks(calm.workers, train_rank, calm)
    assert weights(out) == weights(calm.folder)


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


@pytest.mark.long  # by hand: nodes that come and go under Slurm are in tests/test_slurm_elastic.py
@pytest.mark.timeout(1800)
def test_a_training_on_a_cluster_loses_a_node_for_good_and_takes_a_new_one(
    case, ray_cluster, tmp_path
):
    """Two workers, one after the loss, two again at the next start; each image once an epoch."""
    nodes = [patiently(lambda: ray_cluster.add_node(num_cpus=1)) for _ in range(2)]
    log, out = tmp_path / "log", Path(case.work) / "elastic"
    keys = ("epochs=100", "record_samples=true", "min_workers=1", "start_timeout=5")
    arguments = command(case, out.name, *keys)
    process = launch(arguments, log, RAY_ADDRESS=ray_cluster.address)
    try:
        wait_until(lambda: newest(out) >= 6, "step 6", process)
        ray_cluster.remove_node(nodes.pop(), allow_graceful=False)
        fewer = "checkpoint of 2 workers goes on with 1"
        wait_until(lambda: fewer in log.read_text(), "the smaller world", process, 600)
        nodes.append(patiently(lambda: ray_cluster.add_node(num_cpus=1)))
        process.send_signal(signal.SIGTERM)
        ended(process, 75, log)
        process = launch(arguments, log, RAY_ADDRESS=ray_cluster.address)
        said = ended(process, 0, log, 900)
    finally:
        end(process)
        for node in nodes:
            ray_cluster.remove_node(node)
    assert "checkpoint of 1 workers goes on with 2" in said
    samples = read_samples(out / SAMPLES)
    assert list(samples) == list(range(1, 401))
    index = load_index(Path(case.shards))
    ids = [one for shard in index.split("train") for one in ShardReader(index.folder, shard).ids]
    for first in range(1, 401, 4):
        taken = [one for step in range(first, first + 4) for one in samples[step]]
        assert sorted(taken) == sorted(ids)


@pytest.mark.long  # meant for CI (slow) once it has been seen to pass; it has not yet
@pytest.mark.timeout(1800)
def test_sigterm_saves_and_says_how_to_go_on(case, tmp_path, ray_address):
    """On a Ray that was there before: only the command gets the signal."""
    log, out = tmp_path / "log", Path(case.work) / "told"
    process = launch(
        command(case, "told", "epochs=1000"),
        log,
        RAY_ADDRESS=ray_address,
        RAY_AUTH_MODE="token",
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    )
    try:
        wait_until(lambda: newest(out) >= 3, "step 3", process)
        process.send_signal(signal.SIGTERM)
        assert "run the same command to go on" in ended(process, 75, log)
    finally:
        end(process)
    assert json.loads((out / "train.json").read_text())["step"] == newest(out)


@pytest.mark.long  # in every run: a stopped worker in tests/test_loader.py
@pytest.mark.timeout(1800)
def test_a_stopped_loader_is_named_and_replaced(case, tmp_path):
    log, out = tmp_path / "log", Path(case.work) / "loader"
    process = launch(command(case, "loader", "epochs=100", "collective_timeout=40"), log)
    try:
        wait_until(lambda: newest(out) >= 3, "step 3", process)
        victim = loaders(process)[-1]
        victim.suspend()
        wait_until(lambda: (out / "failures.jsonl").exists(), "the failure", process, 120)
        said = ended(process, 0, log)
    finally:
        end(process)
    assert re.search(
        rf"rank \d: a loader process \(pid {victim.pid}\) sent no batch for 30 s: it was stopped",
        said,
    )
    assert "run the same command again to go on; going on" not in said and "finished:" in said


@pytest.mark.long  # in every run: divergence in tests/test_train.py
@pytest.mark.timeout(1800)
def test_numbers_that_are_not_finite_end_with_a_sentence_and_leave_the_last_good_checkpoint(
    case, tmp_path
):
    log, out = tmp_path / "log", Path(case.work) / "diverged"
    ended(launch(command(case, "diverged", "steps=3"), log), 0, log)
    keys = ["epochs=4", "max_nonfinite=2", "checkpoint_every=1"]
    settings = out / "checkpoints" / "step-00000003" / "complete.json"
    record = json.loads(settings.read_text())
    record["config"]["lr"] = 1e30  # as if the run had always had it: another lr is refused
    settings.write_text(json.dumps(record))
    said = ended(launch(command(case, "diverged", *keys, "lr=1e30"), log), 2, log)
    assert (
        "updates in a row, up to step" in said
        and "lower optimizer.lr" in said
        and "attempt failed" not in said
    )
    assert newest(out) >= 3


# in every run: full disks in tests/test_checkpoints.py and tests/test_shard_job.py
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system of one's own takes root")
def test_a_full_disk_ends_with_a_sentence_and_the_same_command_goes_on_once_there_is_room(
    case, tmp_path
):
    disk, log, name = tmp_path / "disk", tmp_path / "log", "full"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]).returncode:
        pytest.skip("no right to mount a file system here")
    out = disk / name
    keys = [f"out={out}", "epochs=3", "checkpoint_every=1", "keep_last=1"]
    process = launch(command(case, name, *keys), log)
    try:
        wait_until(lambda: newest(out) >= 2, "step 2", process)
        fill_while_it_runs(disk / "ballast", process)
        said = ended(process, 2, log)
        assert (
            f"the disk is full while writing {out}/" in said
            and "run the same command again" in said
        )
        kept = newest(out)
        assert kept >= 2 and "attempt failed" not in said
        (disk / "ballast").unlink()
        process = launch(command(case, name, *keys), log)
        said = ended(process, 0, log)
        assert f"of which {kept} are done" in said and "finished:" in said
        assert not list((out / "checkpoints").glob("*.tmp-*"))
    finally:
        end(process)
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill_while_it_runs(ballast: Path, process: subprocess.Popen) -> None:
    """Takes what room there is and what the process frees: a checkpoint that it deletes must not
    let it write the next.
    """
    with ballast.open("wb", buffering=0) as file:
        while process.poll() is None:
            try:
                file.write(bytes(1 << 16))
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
                time.sleep(0.02)
