"""Where the ranks of an attempt that failed had stood: asked for on every node, said in a sentence,
with their stacks in a file of the run.

    <out>/stacks/<time>.txt    the stacks, each once with the ranks that had it; the newest five
    <out>/stacks/<time>/       what NCCL was at, a file a rank, for `torchfrtrace`
"""

import re
import shutil
import time
from collections import Counter, defaultdict
from pathlib import Path

import ray

from c2srt.cluster.session import on_node
from c2srt.files import write_text
from c2srt.train.standing import Found, Stood, stood_here

STACKS, KEPT = "stacks", 5
ASK_S = 30
"""For all nodes to answer; one that is cut off never does."""
QUIET_S = 5
"""Without a sign of life for so much longer than the others: stopped, or cut off."""
LONGEST = 1_000_000
"""Characters of a file of stacks."""
NAMED = 3
OPERATION = re.compile(r'distributed_c10d\.py", line \d+ in ([a-z]\w+)')
OURS = "train/loop.py"


def look_back(attempt: str, folder: Path) -> str:
    """A sentence about where the ranks stood, "" where nobody knows; their stacks are kept below
    the run's folder.
    """
    stamp = folder / STACKS / time.strftime("%Y%m%d-%H%M%S")
    try:
        answers = ask_nodes(attempt, stamp)
        stood = sorted(one for answer in answers for one in answer.stood)
        nodes = next((answer.nodes for answer in answers if answer.nodes), [])
        if any(one.stack for one in stood):
            keep_stacks(stamp.with_suffix(".txt"), stood)
        return told(stood, nodes)
    except Exception as error:  # a full disk, a Ray that is gone: what failed is told all the same
        return f"where the ranks stood is not known ({type(error).__name__})"


def ask_nodes(attempt: str, kept: Path) -> list[Found]:
    """The answers of those living nodes that give one."""
    ask = ray.remote(num_cpus=0, max_retries=0)(stood_here)
    asked = [
        on_node(ask, node["NodeID"]).remote(attempt, kept) for node in ray.nodes() if node["Alive"]
    ]
    answered, late = ray.wait(asked, num_returns=len(asked), timeout=ASK_S)
    for one in late:
        ray.cancel(one, force=True)
    return [found for one in answered if (found := answer(one))]


def answer(reference: ray.ObjectRef) -> Found | None:
    """What a node said; None where it is gone."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError:
        return None


# --- the sentence


def told(stood: list[Stood], nodes: list[str]) -> str:
    """Which ranks the others waited for, and where: those that gave no sign of life, or whose node
    gave no answer; else those that stood elsewhere than most.
    """
    if not stood:
        return ""
    newest = min(one.alive for one in stood)
    quiet = [one for one in stood if one.alive > newest + QUIET_S]
    heard = [one for one in stood if one not in quiet]
    unheard = [rank for rank in range(len(nodes)) if rank not in {one.rank for one in stood}]
    most, count = Counter(map(where, heard)).most_common()[0]
    named = [describe(one, one.alive - newest) for one in quiet]
    named += [f"of rank {rank} (node {nodes[rank]}) nothing is known" for rank in unheard]
    named = named or [describe(one, 0) for one in heard if where(one) != most]
    if not named:
        return f"all {count} ranks stood in {most}" if count > 1 else f"it stood in {most}"
    more = f"; and {len(named) - NAMED} more" if len(named) > NAMED else ""
    it = "it" if len(named) == 1 else "them"
    waits = "waits" if count == 1 else "wait"
    return f"{'; '.join(named[:NAMED])}{more}; {count} {waits} for {it} in {most}"


def describe(one: Stood, quiet: float) -> str:
    silence = f", without a sign of life for {quiet:.0f} s" if quiet else ""
    return f"rank {one.rank} (node {one.node}) stands in {where(one)}{silence}"


def where(one: Stood) -> str:
    """The step and the place; the collective, where its stack shows one."""
    operation = collective(one.stack)
    return f"step {one.step:,}, {f'in {operation}' if operation else one.place}"


def collective(stack: str) -> str | None:
    """The innermost call of torch.distributed in the thread that trains, None if there is none."""
    threads = [thread for thread in stack.split("\n\n") if OURS in thread]
    found = OPERATION.search(threads[0]) if threads else None
    return found[1] if found else None


# --- the file


def keep_stacks(path: Path, stood: list[Stood]) -> None:
    """Writes each stack once with the ranks that had it, and removes older files but the newest."""
    ranks = defaultdict(list)
    for one in stood:
        ranks[one.stack or "no stack: it stood there too short, or was stopped"].append(one)
    parts = [
        "\n".join([*(f"rank {one.rank}, node {one.node}: {where(one)}" for one in ones), stack])
        for stack, ones in ranks.items()
    ]
    path.parent.mkdir(exist_ok=True)
    write_text(path, "\n\n".join(parts)[:LONGEST])
    for old in sorted(path.parent.glob("*.txt"))[:-KEPT]:
        old.unlink()
        shutil.rmtree(old.with_suffix(""), ignore_errors=True)
