"""The look at the nodes on a real Slurm of three, with one broken node a time: an old checkout, a
full disk, no /dev/shm, a firewall, another clock, a slow link.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.slurm_nodes import SlurmNodes, why_not

ROOT = Path(__file__).parents[1]
FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmNodes]:
    if reason := why_not() or lacking("tc", "iproute2"):
        if os.environ.get("C2SRT_SLURM_TESTS") == "required":
            pytest.fail(f"Slurm is required here, but {reason}")
        pytest.skip(reason)
    work = Path(tempfile.mkdtemp(prefix="sc", dir="/tmp"))
    try:
        with SlurmNodes(work) as nodes:
            write_site(work)
            yield nodes
    finally:
        shutil.rmtree(work, ignore_errors=True)


def lacking(program: str, package: str) -> str | None:
    return None if shutil.which(program) else f"needs {program}: apt-get install {package}"


def write_site(work: Path) -> None:
    """Every command on a node goes through run.sh, as through a container: there a node can have
    an environment of its own.
    """
    (work / "site.sh").write_text(f"""
export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={ROOT}
export C2SRT_TMP={work}/tmp C2SRT_LOGS={work}/logs C2SRT_DATA={work}/no-data
export C2SRT_WORK={work}/no-work OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
export C2SRT_RUN={work}/run.sh C2SRT_CHECK_SECONDS=300 C2SRT_DASHBOARD_HOST=none
""")
    (work / "run.sh").write_text(f'#!/bin/bash\nsource {work}/node.sh\nexec "$@"\n')
    (work / "run.sh").chmod(0o755)
    (work / "node.sh").write_text("")
    (work / "logs").mkdir()
    (work / "work").mkdir()


@contextmanager
def environment(slurm: SlurmNodes, node: str, script: str) -> Iterator[None]:
    """What is started on that node runs this first meanwhile."""
    path = slurm.work / "node.sh"
    path.write_text(f'if [ "$(hostname)" = {node} ]; then {script}; fi\n')
    try:
        yield
    finally:
        path.write_text("")


@contextmanager
def small(slurm: SlurmNodes, node: str, folder: Path) -> Iterator[None]:
    """The folder has 8 MiB there meanwhile."""
    slurm.run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder), node=node)
    try:
        yield
    finally:
        slurm.run("umount", "-l", str(folder), node=node)


def submit(slurm: SlurmNodes, *arguments: str) -> str:
    settings = {"C2SRT_SITE": f"{slurm.work}/site.sh", "SBATCH_OUTPUT": f"{slurm.work}/logs/%j.log"}
    words = ["slurm/submit.sh", "--parsable", "--nodes=3", *arguments]
    return slurm.run(*words, cwd=ROOT, environment=settings).strip()


def by_hand(slurm: SlurmNodes, *keys: str) -> str:
    """A job that is nothing but the verb, with these keys."""
    words = " ".join([f"work={slurm.work}/work", "seconds=300", *keys])
    script = f"source {slurm.work}/site.sh; exec python -m c2srt.cluster.check {words}"
    return submit(slurm, f"--wrap=bash -c '{script}'")


def log(slurm: SlurmNodes, job: str) -> str:
    path = slurm.work / "logs" / f"{job}.log"
    return path.read_text() if path.exists() else ""


def wait_for(slurm: SlurmNodes, job: str, what: Callable[[dict], bool]) -> dict[str, str]:
    """The job, once `what` is true of it; fails with its log after minutes."""
    deadline = time.monotonic() + 600
    while not what(found := slurm.job(job)):
        assert time.monotonic() < deadline, (found, log(slurm, job))
        time.sleep(0.3)
    return found


def ended(slurm: SlurmNodes, job: str) -> tuple[str, str]:
    """(exit status, log) of the job; it was not requeued."""
    found = wait_for(slurm, job, lambda job: job["JobState"] in ENDED)
    assert found["Restarts"] == "0"
    return found["ExitCode"].partition(":")[0], log(slurm, job)


def faults(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("FAULT ")]


def test_nodes_that_are_well_are_looked_at_and_the_training_begins(slurm):
    keys = ["data=miniature", f"work={slurm.work}/work"]
    job = submit(slurm, "slurm/openimages.sh", *keys)
    wait_for(
        slurm,
        job,
        lambda found: "ray head on n1" in log(slurm, job) or found["JobState"] in ENDED,
    )
    said = log(slurm, job)
    slurm.run("scancel", job)
    assert faults(said) == [] and "ray head on n1" in said, said
    assert "3 nodes looked at in" in said and "all-reduce of" in said, said
    record = json.loads((slurm.work / f"logs/check-{job}.json").read_text())
    assert len(record["pairs"]) == 3 and record["silent"] == {}
    places = record["answers"]["places"]["n2"]
    assert {"work", "out", "shards", "text", "relations", "teacher", "data.root"} == {*places}
    assert sorted(record["answers"]["words"]["n2"]["out"]) == ["n1", "n3"]
    assert list((slurm.work / "work").rglob(".c2srt-check-*")) == []
    wait_for(slurm, job, lambda found: found["JobState"] in ENDED)


def test_a_node_with_an_old_checkout_ends_the_job_before_ray_starts(slurm):
    old = slurm.work / "old"
    shutil.copytree(ROOT / "c2srt", old / "c2srt", ignore=shutil.ignore_patterns("__pycache__"))
    (old / "c2srt/version.py").write_text('VERSION = "0.0.9"\n')
    with environment(slurm, "n2", f"cd {old}; export PYTHONPATH={old}"):
        job = submit(slurm, "slurm/openimages.sh", "data=miniature", f"work={slurm.work}/work")
        status, said = ended(slurm, job)
    assert status == "1" and "ray head" not in said, said
    first, second = faults(said)
    assert first.startswith(
        "FAULT n2: c2srt 0.0.9, and 0.1.0 on 2 other nodes: update the checkout"
    )
    assert second.startswith("FAULT n2: source ")
    assert "the nodes are not fit for the job: FAULT n2: c2srt 0.0.9" in said


def test_keys_of_a_training_that_are_wrong_end_the_job_with_the_sentence(slurm):
    status, said = ended(slurm, submit(slurm, "slurm/openimages.sh", "data=miniature", "epohcs=8"))
    assert status == "2" and "unknown key 'epohcs'" in said and "ray head" not in said, said


def test_a_full_disk(slurm):
    with small(slurm, "n3", slurm.work / "tmp"):
        status, said = ended(slurm, by_hand(slurm, "parts=[machine]"))
    assert status == "1", said
    (fault,) = faults(said)
    assert fault.startswith(f"FAULT n3: C2SRT_TMP ({slurm.work}/tmp): 8.0 MiB free")


def test_no_shared_memory(slurm):
    with small(slurm, "n2", Path("/dev/shm")):
        status, said = ended(slurm, by_hand(slurm, "parts=[machine]"))
    assert status == "1", said
    (fault,) = faults(said)
    assert fault.startswith("FAULT n2: /dev/shm: 8.0 MiB free, and a training wants 1.0 GiB: empty")


def test_a_work_folder_that_is_not_the_shared_one(slurm):
    with small(slurm, "n3", slurm.work / "work"):
        status, said = ended(slurm, by_hand(slurm, "parts=[places]"))
    assert status == "1", said
    (fault,) = faults(said)
    assert fault.startswith(f"FAULT n3: work: {slurm.work}/work is not the folder of the other")


def test_a_firewall_before_ray_s_ports(slurm):
    """What n3 would answer from them goes nowhere; its other ports are open."""
    rule = ["ipproto", "tcp", "sport", "16000-31999", "blackhole"]
    slurm.run("ip", "rule", "add", *rule, node="n3")
    try:
        status, said = ended(slurm, by_hand(slurm, "parts=[reach]"))
    finally:
        slurm.run("ip", "rule", "del", *rule, node="n3")
    assert status == "1", said
    (fault,) = faults(said)
    assert (
        fault.startswith("FAULT n3: not reached by 2 other nodes, port ") and "(no answer)" in fault
    )


@pytest.mark.skipif(not FAKETIME, reason="needs libfaketime: apt-get install faketime")
def test_a_clock_that_is_off(slurm):
    fake = f"export LD_PRELOAD={FAKETIME[0]} FAKETIME=+45s FAKETIME_DONT_FAKE_MONOTONIC=1"
    with environment(slurm, "n2", fake):
        status, said = ended(slurm, by_hand(slurm, "parts=[clock]"))
    assert status == "1", said
    (fault,) = faults(said)
    assert fault.startswith("FAULT n2: the clock is +45.0 s from the others' (±"), said


def test_a_node_that_does_not_start_the_check(slurm):
    """As where a container's image is missing: its last words are told, and nobody waits for it."""
    with environment(slurm, "n3", "echo 'no such image' >&2; exit 1"):
        status, said = ended(slurm, by_hand(slurm, "parts=[clock]"))
    assert status == "1", said
    (fault,) = faults(said)
    assert fault.startswith("FAULT n3: no such image: look at the node"), said


def test_a_slow_link_is_named_and_ends_nothing(slurm):
    """8 Mbit/s out of n3: both of its pairs are slow, the third is not."""
    limit = ["dev", "eth0", "root", "tbf", "rate", "8mbit", "burst", "32kbit", "latency", "400ms"]
    slurm.run("tc", "qdisc", "add", *limit, node="n3")
    try:
        keys = ["data=miniature", f"work={slurm.work}/work"]
        status, said = ended(slurm, submit(slurm, "slurm/check.sh", *keys))
    finally:
        slurm.run("tc", "qdisc", "del", "dev", "eth0", "root", node="n3")
    assert status == "0" and faults(said) == [], said
    (slow,) = [
        line for line in said.splitlines() if line.startswith("warning n3: its link is slow")
    ]
    assert "look at its cable" in slow
