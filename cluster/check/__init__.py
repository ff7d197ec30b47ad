"""`c2srt check`: of a Ray cluster's nodes where RAY_ADDRESS names one, of an allocation's inside a
Slurm job, else of this machine (c2srt/check/nodes).
"""

import os
import shutil
import sys
from typing import Any

from c2srt.check.config import CLUSTER, Config
from c2srt.check.nodes.hub import Hub
from c2srt.check.nodes.plan import Plan
from c2srt.check.nodes.probe import SPARE_S, TOKEN
from c2srt.check.nodes.run import END_S, probe_words
from c2srt.cluster.address import given_address
from c2srt.cluster.paths import check_lasting


def run(config: Config) -> int:
    """Returns 1 where something is wrong. Raises UserError on bad input."""
    if config.what != CLUSTER:
        from c2srt.check.run import run as of_this_machine

        return of_this_machine(config)
    if given_address():
        return of_ray(config)
    if "SLURM_JOB_NODELIST" in os.environ and shutil.which("srun"):
        return of_allocation(config)
    from c2srt.check.cluster import run_cluster

    return run_cluster(config)


def of_allocation(config: Config) -> int:
    """By hand inside a Slurm job (salloc)."""
    from c2srt.check.cluster import run_cluster
    from c2srt.cluster.slurm.check import allocation, starting
    from c2srt.cluster.slurm.site import Site

    here = allocation()
    return run_cluster(
        config, here.names, starting(Site.from_environment()), here.address, here.ports
    )


def of_ray(config: Config) -> int:
    """Joins the cluster. Raises UserError if it does not answer."""
    for folder in (config.work, config.out):
        check_lasting(folder)
    import ray

    from c2srt.check.cluster import run_cluster
    from c2srt.cluster.session import join

    join(0)
    nodes = named([node for node in ray.nodes() if node["Alive"]])
    return run_cluster(
        config,
        list(nodes),
        lambda hub, plan: RayProbes(nodes, hub, plan),
        ray.util.get_node_ip_address(),
    )


def named(nodes: list[dict[str, Any]]) -> dict[str, str]:
    """{name: Ray's id} of the nodes; two of one host are told apart by the id."""
    hosts = [node["NodeManagerHostname"] for node in nodes]
    return {
        host if hosts.count(host) == 1 else f"{host}-{node['NodeID'][:6]}": node["NodeID"]
        for host, node in zip(hosts, nodes, strict=True)
    }


class RayProbes:
    """A probe a node, each in a task that holds no CPU: the cluster may be busy."""

    def __init__(self, nodes: dict[str, str], hub: Hub, plan: Plan) -> None:
        import ray

        from c2srt.cluster.session import on_node

        started = ray.remote(num_cpus=0, max_retries=0)(held)
        self.tasks = {
            name: on_node(started, node, name=f"check {name}").remote(
                probe_words(name, hub, plan), hub.token, plan.seconds
            )
            for name, node in nodes.items()
        }

    def ended(self) -> set[str]:
        import ray

        done, _ = ray.wait([*self.tasks.values()], num_returns=len(self.tasks), timeout=0)
        return {name for name, task in self.tasks.items() if task in done}

    def words(self) -> dict[str, str]:
        """What those said that have ended."""
        import ray

        found = {}
        for name in self.ended():
            try:
                found[name] = ray.get(self.tasks[name])
            except ray.exceptions.RayError as error:
                found[name] = str(error).strip().splitlines()[-1]
        return found

    def end(self) -> None:
        import ray

        tasks = [*self.tasks.values()]
        _, left = ray.wait(tasks, num_returns=len(tasks), timeout=END_S)
        for task in left:
            ray.cancel(task, force=True)


def held(words: list[str], token: str, seconds: float) -> str:
    """On a node: a probe in a process of its own; its last words."""
    import subprocess

    command = [sys.executable, "-m", "c2srt.check.nodes.probe", *words]
    here = os.environ | {TOKEN: token, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            command,
            env=here,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=seconds + SPARE_S,
        )
    except subprocess.TimeoutExpired:
        return "its probe did not end"
    return (done.stdout.strip().splitlines() or [""])[-1].removeprefix(f"{words[0]} ")
