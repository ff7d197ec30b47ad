"""A training under Slurm that loses nodes for good and gets new ones: it goes on with those that
are left where it may, on a spare one where there is one, and is given back to the queue otherwise;
no sample is lost or taken twice.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from c2srt.cluster.slurm.job import lose
from c2srt.cluster.slurm.keys import check_room
from c2srt.cluster.slurm.nodes import Cluster, Node
from c2srt.cluster.slurm.site import REQUEUE
from c2srt.shard_reader import ShardReader
from c2srt.shards import load_index
from c2srt.train.sample_log import SAMPLES, read_samples
from tests.slurm_nodes import SlurmNodes
from tests.test_slurm import (
    attempts,
    finished,
    log,
    of_attempt,
    out,
    steps,
    submit,
    three_nodes,
    training,
    wait,
    write_case,
)

STEPS_PER_EPOCH, EPOCHS = 4, 150
MORE = ("record_samples=true", "collective_timeout=120", f"epochs={EPOCHS}", "checkpoint_every=10")


# --- what the launcher makes of a lost node


def allocation(keys: list[str], shrinks: bool = True) -> Cluster:
    """Three nodes with a CPU each, of which nothing was started."""
    nodes = {name: Node(name, "10.0.0.1", cpus=1) for name in ("n1", "n2", "n3")}
    found = Cluster.__new__(Cluster)
    found.nodes, found.head, found.lost, found.shrinks = nodes, "n1", set(), shrinks
    found.logs = Path("logs")
    found.check = lambda left: check_room("train", keys, left)
    found.taken = lambda: []
    return found


@pytest.mark.parametrize(
    "keys, nodes, goes_on",
    [
        (["workers=2"], ["n3"], [True]),  # a spare node
        (["workers=2"], ["n3", "n2"], [True, False]),
        (["workers=3", "faults.min_workers=1"], ["n2", "n3"], [True, True]),
        (["workers=3"], ["n2"], [False]),
        (["workers=1"], ["n1"], [False]),  # the first node, with the job's own processes
    ],
)
def test_a_job_goes_on_with_the_nodes_that_are_left_while_they_suffice(keys, nodes, goes_on):
    cluster = allocation(keys)
    for node, may in zip(nodes, goes_on, strict=True):
        found = lose(cluster, node, ["ended", "1", "killed"])
        if may:
            assert found is None and lose(cluster, node, ["ended", "1"]) is None
        else:
            assert found.status == REQUEUE and found.again
            assert found.reason == f"Ray on {node} ended with 1 killed (more in logs/)"


def test_other_jobs_than_trainings_are_given_back_and_so_is_one_whose_nodes_have_all_ended():
    assert lose(allocation(["workers=1"], shrinks=False), "n3", ["ended", "1"]).again
    assert lose(allocation(["workers=1"]), "all nodes", ["ended", "0"]).again


def test_a_node_that_slurm_took_is_lost_too():
    cluster = allocation(["workers=2"])
    cluster.taken = lambda: ["n2"]
    assert lose(cluster, "", []) is None and cluster.lost == {"n2"}
    cluster.taken = lambda: ["n3"]
    assert lose(cluster, "", []).reason == "Slurm has taken n3 from the job: it is down"


# --- on a real Slurm


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmNodes]:
    with three_nodes() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def case(slurm) -> list[str]:
    return [*(key for key in write_case(slurm) if "epochs" not in key), *MORE]


def check_samples(slurm: SlurmNodes, folder: Path) -> None:
    """Each step once, each image once an epoch."""
    samples = read_samples(folder / SAMPLES)
    assert list(samples) == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))
    index = load_index(slurm.work / "case/shards")
    ids = [one for shard in index.split("train") for one in ShardReader(index.folder, shard).ids]
    for first in range(1, len(samples) + 1, STEPS_PER_EPOCH):
        taken = [one for step in range(first, first + STEPS_PER_EPOCH) for one in samples[step]]
        assert sorted(taken) == sorted(ids)


def failures(folder: Path) -> list[dict]:
    path = folder / "failures.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def node_of_a_rank(slurm: SlurmNodes) -> str:
    """One that trains, and is not the first."""
    return next(
        name
        for name in ("n2", "n3")
        if any("RayTrainWorker" in line for line in slurm.processes(name))
    )


@contextmanager
def without_power(slurm: SlurmNodes, node: str) -> Iterator[None]:
    """The node is back for the next test, whatever this one found."""
    slurm.cut_power(node)
    try:
        yield
    finally:
        slurm.plug_in(node)


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_three_nodes_become_two_and_three_again(slurm, case):
    """A node is lost for good: the training goes on with two workers, in the same attempt of the
    job. It comes back, and the next attempt takes it.
    """
    folder = out(slurm, "elastic")
    keys = ("faults.min_workers=2", f"out={folder}")
    job = submit(slurm, "--no-kill", "--nodes=3", "slurm/openimages.sh", *case, *keys)
    wait(slurm, job, lambda: steps(folder) >= 10)
    with without_power(slurm, "n3"):
        wait(slurm, job, lambda: "checkpoint of 3 workers goes on with 2" in log(slurm, job))
        lost = steps(folder)
        assert attempts(slurm, job) == 1
        wait(slurm, job, lambda: steps(folder) > lost)
    slurm.wait_for_nodes(1)
    slurm.run("scancel", "--signal=USR1", "--batch", job)
    wait(slurm, job, lambda: training(slurm, job, attempt=2))
    assert "checkpoint of 2 workers goes on with 3" in of_attempt(slurm, job, 2)
    finished(slurm, job)
    summary = json.loads((folder / "train.json").read_text())
    assert (summary["state"], summary["workers"]) == ("finished", 3)
    check_samples(slurm, folder)
    (failure,) = failures(folder)
    assert failure["workers"] == 3 and "rank" in failure["cause"], failure
    print(f"\n{failure}")


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_a_spare_node_takes_the_place_of_one_that_is_lost(slurm, case):
    """In the same attempt, with as many workers: the weights are the undisturbed ones."""
    slurm.wait_for_nodes(3)
    folder = out(slurm, "spare")
    keys = ("slurm/openimages.sh", *case, "workers=2")
    calm = submit(slurm, "--nodes=2", *keys, f"out={folder}-calm")
    finished(slurm, calm)
    job = submit(slurm, "--no-kill", "--nodes=3", *keys, f"out={folder}")
    wait(slurm, job, lambda: steps(folder) >= 10)
    with without_power(slurm, node_of_a_rank(slurm)):
        wait(slurm, job, lambda: failures(folder))
        finished(slurm, job)
    assert attempts(slurm, job) == 1 and "exit status 0" in log(slurm, job)
    assert [failure["workers"] for failure in failures(folder)] == [2]
    check_samples(slurm, folder)
    weights = [Path(f"{folder}{end}/model/model.safetensors") for end in ("", "-calm")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_the_other_nodes_give_the_job_back_when_its_first_node_is_lost(slurm, case):
    slurm.wait_for_nodes(3)
    folder = out(slurm, "headless")
    job = submit(slurm, "--no-kill", "--nodes=2", "slurm/openimages.sh", *case, f"out={folder}")
    wait(slurm, job, lambda: steps(folder) >= 10)
    assert "n1" in slurm.job(job)["NodeList"].replace("[1", "1")
    with without_power(slurm, "n1"):
        wait(slurm, job, lambda: training(slurm, job, attempt=2))
        finished(slurm, job)
    check_samples(slurm, folder)
