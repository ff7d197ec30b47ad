"""What the nodes' reports mean: which node is bad, and what to do.

A fault keeps a training from its goal, or wastes it: it ends the job before it costs. A warning is
told, and ends nothing. Standard library only.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from c2srt.check.nodes.course import Reports
from c2srt.check.nodes.units import amount

FAULT, WARNING = "FAULT", "warning"
MUST_AGREE = {
    "c2srt": "update the checkout, or the package, on every node",
    "source": "update the checkout, or the package, on every node",
    "Python": "use one environment on every node",
    "torch": "install the same environment on every node",
    "torchvision": "install the same environment on every node",
    "open_clip_torch": "install the same environment on every node",
    "deepspeed": "install the same environment on every node",
    "ray": "install the same environment on every node: Ray refuses a node of another version",
    "driver": "ask for nodes of one kind, or have the driver updated",
    "GPUs": "ask for nodes of one kind",
    "numpy": "install the same environment on every node",
    "triton": "install the same environment on every node",
}
ONLY_WARNED = ("driver", "GPUs", "numpy", "triton")
GIB = 2**30
LEAST: dict[str, tuple[float, float, str, str]] = {
    "shared_memory": (
        GIB / 2,
        GIB,
        "/dev/shm",
        "empty it, or give containers more (--shm-size=8g)",
    ),
    "temporary": (GIB, 5 * GIB, "C2SRT_TMP", "empty it, or set another folder in slurm/site.sh"),
    "files": (1024, 4096, "open files at once", "raise the limit (ulimit -n)"),
}
"""The least for a training, what it wants, its name, and what to do."""
CLOCK_S, CLOCK_SLIGHT_S = 30.0, 1.0
"""Off by more: logs, time limits and signatures of stores contradict each other; logs only."""
SLOW, LEAST_LINK = 0.25, 100e6
"""Of what is usual, and bytes a second that it should be: less than Gigabit Ethernet gives."""
SLOW_LOADER = 0.5


@dataclass(frozen=True)
class Finding:
    """A sentence about a node ("n1, n2" where either may be the bad one): what it is, and what to
    do.
    """

    node: str
    state: str
    says: str

    def __str__(self) -> str:
        return f"{self.state} {self.node}: {self.says}"


def judge(reports: Reports) -> list[Finding]:
    """All findings, faults first."""
    questions = (
        silent,
        failed,
        versions,
        gpus,
        clock,
        machine,
        places,
        ports,
        walls,
        links,
        loader,
    )
    found = [finding for question in questions for finding in question(reports)]
    return sorted(found, key=lambda finding: finding.state != FAULT)


def silent(reports: Reports) -> Iterator[Finding]:
    """From a cold disk torch takes minutes on a node that is well, and so may the first images."""
    for node, why in reports.silent.items():
        state = WARNING if why["asked"] in ("torch", "loader") else FAULT
        yield Finding(node, state, f"{why['says']}: look at the node, or leave it out")


ASKED = {
    "versions": "its versions cannot be read",
    "machine": "its disks cannot be read",
    "places": "the folders cannot be looked at",
    "torch": "torch cannot be imported",
    "host": "torch.distributed does not start",
    "join": "it does not join the other ranks",
    "all_reduce": "the all-reduce failed",
    "exchange": "the exchange with another rank failed",
    "loader": "the loaders fail",
}


def failed(reports: Reports) -> Iterator[Finding]:
    """Questions that a node could not do. Where ranks wait for each other one fault shows at
    several.
    """
    for what, answers in reports.answers.items():
        for node, answer in answers.items():
            if fault := answer.get("fault"):
                yield Finding(node, FAULT, f"{ASKED.get(what, what)} ({fault})")


def versions(reports: Reports) -> Iterator[Finding]:
    """Whoever differs from the most. The commit says more than a hash of the source."""
    answers = reports.of("versions")
    for name, do in MUST_AGREE.items():
        state = WARNING if name in ONLY_WARNED else FAULT
        held = {node: str(answer.get(name, "none")) for node, answer in answers.items()}
        if name in ("GPUs", "driver"):  # the head of a Ray cluster may have none
            held = {node: value for node, value in held.items() if value != "none"}
        shown = {
            value: f"{value} (commit {answers[node].get('commit', 'unknown')})"
            for node, value in held.items()
            if name == "source"
        }
        for node, says in differing(name, held, shown):
            yield Finding(node, state, f"{says}: {do}")


def differing(
    name: str, held: Mapping[str, str], shown: Mapping[str, str] = {}
) -> Iterator[tuple[str, str]]:
    """(node, what it has and the others have); all nodes together where none is in the minority.
    `shown`: values in words.
    """
    counts = Counter(held.values()).most_common()
    if len(counts) < 2:
        return
    common, most = counts[0]
    if most == counts[1][1]:
        have = "; ".join(
            f"{node} has {name} {shown.get(value, value)}" for node, value in held.items()
        )
        yield ", ".join(held), have
        return
    for node, value in held.items():
        if value != common:
            others = f"{shown.get(common, common)} on {most} other node{'s' * (most > 1)}"
            yield node, f"{name} {shown.get(value, value)}, and {others}"


def gpus(reports: Reports) -> Iterator[Finding]:
    """Cards that torch cannot use."""
    versions = reports.of("versions")
    for node, answer in reports.of("torch").items():
        cards = versions.get(node, {}).get("GPUs", "none")
        if not answer["gpus"] and cards != "none":
            yield Finding(node, FAULT, f"{cards}, and torch can use none: {answer['without']}")


def clock(reports: Reports) -> Iterator[Finding]:
    """Whoever is off from the median, by more than the measurement may be."""
    for node, off, error in clocks(reports):
        beyond = abs(off) - error
        if beyond > CLOCK_SLIGHT_S:
            state = FAULT if beyond > CLOCK_S else WARNING
            against = "the other's" if "," in node else "the others'"
            yield Finding(
                node,
                state,
                f"the clock is {off:+.1f} s from {against} (± {error:.3f} s): start its time"
                " service (chrony, ntpd)",
            )


def clocks(reports: Reports) -> list[tuple[str, float, float]]:
    """(node, seconds from the median, how far that may be off); of two nodes either may be off."""
    read = reports.of("clock")
    if len(read) == 2:
        (first, one), (second, two) = read.items()
        off = two["offset"] - one["offset"]
        return [(f"{first}, {second}", off, one["error"] + two["error"])]
    if not read:
        return []
    middle = median(answer["offset"] for answer in read.values())
    return [(node, answer["offset"] - middle, answer["error"]) for node, answer in read.items()]


def machine(reports: Reports) -> Iterator[Finding]:
    """What a node has too little of."""
    for node, answer in reports.of("machine").items():
        for what, (least, wanted, name, do) in LEAST.items():
            have = answer.get(what)
            where = f"{name} ({answer['temporary_folder']})" if what == "temporary" else name
            if have is None and what != "files":
                yield Finding(node, FAULT, f"{where} is not there, or cannot be written: {do}")
            elif have is not None and have < wanted:
                state = FAULT if have < least else WARNING
                shown = f"{have:.0f}, and" if what == "files" else f"{amount(have)} free, and"
                want = f"{wanted:.0f}" if what == "files" else amount(wanted)
                yield Finding(node, state, f"{where}: {shown} a training wants {want}: {do}")


def places(reports: Reports) -> Iterator[Finding]:
    """Folders that a node does not see, cannot write, or sees with other files."""
    answers = reports.of("places")
    keys = dict.fromkeys(key for answer in answers.values() for key in answer)
    for key in keys:
        held = {node: answer[key] for node, answer in answers.items() if key in answer}
        if key in reports.written:
            yield from written(key, held)
            yield from apart(key, held, reports.of("words"))
        else:
            yield from read(key, held)


def read(key: str, held: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """A folder that is there on no node is not yet made, or not needed."""
    there = [node for node, seen in held.items() if seen["there"]]
    for node, seen in held.items():
        if not seen["there"] and there:
            yield Finding(
                node,
                FAULT,
                f"{key}={seen['path']} is not there, and {there[0]} sees it: mount it on this node",
            )
        elif why := seen.get("unreadable"):
            yield Finding(
                node, FAULT, f"{key}={seen['path']} cannot be read ({why}): see to its permissions"
            )
    marks = {node: seen["fingerprint"] for node, seen in held.items() if "fingerprint" in seen}
    for node, says in differing(f"{key} with the contents", marks):
        path = next(iter(held.values()))["path"]
        yield Finding(
            node,
            FAULT,
            f"{says}: {path} is not the same folder everywhere; mount the shared one",
        )


def written(key: str, held: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    for node, seen in held.items():
        if why := seen.get("unwritable"):
            yield Finding(
                node,
                FAULT,
                f"{key} cannot be written in {seen['nearest']} ({why}): mount it writable, or free"
                " some space",
            )


def apart(
    key: str, held: dict[str, dict[str, Any]], words: dict[str, dict[str, Any]]
) -> Iterator[Finding]:
    """Nodes whose folder is another one than most nodes': they don't find what those wrote."""
    groups: list[set[str]] = [{node} for node, seen in held.items() if seen.get("word")]
    for node, found in words.items():
        for other in found.get(key, ()):
            joined = [group for group in groups if group & {node, other}]
            groups = [group for group in groups if group not in joined] + [set().union(*joined)]
    groups.sort(key=len, reverse=True)
    if len(groups) < 2:
        return
    order = list(held)
    tie = len(groups[0]) == len(groups[1])
    nodes = sorted(set().union(*groups if tie else groups[1:]), key=order.index)
    folder = held[nodes[0]]["nearest"]
    for node in [", ".join(nodes)] if tie else nodes:
        yield Finding(
            node,
            FAULT,
            f"{key}: {folder} is not the folder of the other nodes, whose files are not seen there:"
            " mount the shared one",
        )


def ports(reports: Reports) -> Iterator[Finding]:
    """Ports of the job that something else holds: Ray is given others on that node."""
    for node, answer in reports.of("listen").items():
        if taken := answer["taken"]:
            held = ", ".join(f"{port} ({why})" for port, why in taken.items())
            says = f"another process holds what Ray would take, port {held}"
            yield Finding(node, WARNING, f"{says}: is another job left on this node?")


def walls(reports: Reports) -> Iterator[Finding]:
    """Nodes that are not reached: the one that most others miss, or that misses most others."""
    failures = {node: answer["failed"] for node, answer in reports.of("visit").items()}
    missed = Counter(other for found in failures.values() for other in found)
    told: set[tuple[str, str]] = set()
    for node, by in missed.most_common():
        if by > 1 or len(failures) == 2:
            whys = {
                f"{port} ({why})"
                for found in failures.values()
                for port, why in found.get(node, {}).items()
            }
            yield Finding(
                node, FAULT, f"not reached by {by} other nodes, port {first(whys)}: {WALL}"
            )
            told |= {(other, node) for other in failures}
    for node, found in failures.items():
        left = [other for other in found if (node, other) not in told]
        if left:
            whys = {f"{port} ({why})" for other in left for port, why in found[other].items()}
            yield Finding(
                node, FAULT, f"it does not reach {', '.join(left)}, port {first(whys)}: {WALL}"
            )


WALL = (
    "let the nodes of a job talk to each other on all ports, or name their common network"
    " (C2SRT_INTERFACE in slurm/site.sh)"
)


def first(whys: set[str], most: int = 3) -> str:
    shown = sorted(whys)[:most]
    return ", ".join([*shown, *(["…"] if len(whys) > most else [])])


def links(reports: Reports) -> Iterator[Finding]:
    """A node all of whose pairs are slow, then pairs that are slow by themselves. What is usual is
    the median of the nodes' best pairs: a slow node makes slow pairs with all the others.
    """
    for pair, found in reports.pairs.items():
        if isinstance(found, str):
            yield Finding(", ".join(pair), FAULT, f"{found}: look at the network between them")
    rates = {pair: found for pair, found in reports.pairs.items() if not isinstance(found, str)}
    nodes = dict.fromkeys(node for pair in rates for node in pair)
    best = [max(rate for pair, rate in rates.items() if node in pair) for node in nodes]
    usual = median(best) if best else LEAST_LINK
    if usual < LEAST_LINK:
        yield Finding(", ".join(nodes), WARNING, f"{amount(usual)}/s between nodes: {NETWORK}")
    slow = {pair for pair, rate in rates.items() if rate < SLOW * usual}
    bad = slow_nodes(rates, slow)
    for node in bad:
        own = amount(median(rate for pair, rate in rates.items() if node in pair))
        says = f"its link is slow: {own}/s, and {amount(usual)}/s is usual here"
        yield Finding(node, WARNING, f"{says}: look at its cable and network card")
    for pair in sorted(slow):
        if not {*pair} & {*bad}:
            says = f"{amount(rates[pair])}/s between them, and {amount(usual)}/s is usual here"
            yield Finding(", ".join(pair), WARNING, f"{says}: look at the switches between them")


NETWORK = (
    "is that the network that a training should take? GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
    " (slurm/site.sh) name another one"
)


def slow_nodes(rates: dict[tuple[str, str], float], slow: set[tuple[str, str]]) -> list[str]:
    """Those with several links, all of them slow."""
    nodes = dict.fromkeys(node for pair in rates for node in pair)
    links = {node: [pair for pair in rates if node in pair] for node in nodes}
    return [node for node, own in links.items() if len(own) > 1 and slow.issuperset(own)]


def loader(reports: Reports) -> Iterator[Finding]:
    """Whoever loads much slower than the others: all ranks wait for it at every step."""
    rates = {
        node: answer["images_s"]
        for node, answer in reports.of("loader").items()
        if "images_s" in answer
    }
    usual = median(rates.values()) if len(rates) > 2 else 0.0
    for node, rate in rates.items():
        if rate < SLOW_LOADER * usual:
            yield Finding(
                node,
                WARNING,
                f"its loaders give {rate:.0f} images/s, and {usual:.0f} are usual here: look at its"
                " disk, its mount of the shards, and who else uses its cores",
            )
