"""A look at the allocation's nodes before a job that costs all of them (c2srt/check/nodes)."""

import os
import platform
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

from c2srt.check.nodes.hub import Hub, Interrupted
from c2srt.check.nodes.plan import Plan
from c2srt.check.nodes.run import Processes, Start, check_nodes, sentences
from c2srt.cluster.launch_node import PORTS, job_state, own_address
from c2srt.cluster.ports import first_of
from c2srt.cluster.slurm.site import (
    NOT_STARTED,
    REQUEUE,
    Outcome,
    Refused,
    Site,
    allocated_nodes,
    say,
    signal_name,
)
from c2srt.errors import UserError

OFF = "C2SRT_CHECK_SECONDS=0 (slurm/site.sh) leaves the check out"


class Allocation(NamedTuple):
    """Its nodes, where this one is reached, and the ports that Ray will have on each."""

    names: list[str]
    address: str
    ports: dict[int, str]


def allocation() -> Allocation:
    """That of this job."""
    own = os.environ.get("SLURMD_NODENAME") or platform.node()
    start = first_of(int(os.environ["SLURM_JOB_ID"]))
    ports = {start + place: service for place, service in enumerate(PORTS)}
    return Allocation(allocated_nodes(), own_address(own), ports)


def starting(site: Site) -> Start:
    """One srun for all nodes."""

    def start(hub: Hub, plan: Plan) -> Processes:
        probe = ["c2srt.cluster.check_node", hub.address, str(hub.port), f"{plan.seconds:g}"]
        command = site.on_every_node(len(hub.names), *probe, options=["--label"])
        return Processes(command, hub, hub.names)

    return start


def look_at_nodes(keys: list[str], site: Site, events: SimpleQueue) -> Outcome:
    """What the check says of the nodes: status 0 where a training with these keys may start.
    Raises Refused where the keys are wrong.
    """
    here = allocation()
    plan = Plan(keys=tuple(keys), ports=here.ports, seconds=site.check_seconds)
    record = Path(site.logs).absolute() / f"check-{os.environ['SLURM_JOB_ID']}.json"
    say(f"looking at the nodes, for at most {site.check_seconds:.0f} s: {', '.join(here.names)}")
    try:
        found = check_nodes(
            here.names, plan, starting(site), record, here.address, lambda: told(events)
        )
    except UserError as error:
        raise Refused(str(error)) from error
    except Interrupted as signal:
        return Outcome(REQUEUE, f"{signal} before the job began", again=job_state() == "RUNNING")
    if faults := sentences(found):
        return Outcome(NOT_STARTED, f"the nodes are not fit for the job: {faults}. {OFF}")
    return Outcome(0, "the nodes are as a training needs them")


def told(events: SimpleQueue) -> str:
    """The signal that came meanwhile, if one did."""
    with suppress(Empty):
        _, words = events.get_nowait()
        return signal_name(words[1]) if words[:1] == ["signal"] else ""
    return ""
