"""What a plan says in sentences: whether it fits and what would help, what binds, what a cache
fills, and what a long run costs beyond its steps.
"""

from c2srt.model.kernels.shapes import assignment_fault, attention_fault
from c2srt.plan.estimate import Estimate
from c2srt.plan.hardware import CPU
from c2srt.plan.loading import DECODING, cure
from c2srt.plan.units import seconds, size


def verdict(plan: Estimate) -> list[str]:
    """Whether it fits, and what would help; whether the loaders keep up."""
    memory, cluster, config = plan.memory, plan.cluster, plan.config
    if not memory.fits:
        why = (
            f"a worker needs {size(memory.total)} and has {size(memory.limit)}"
            if memory.left < 0
            else memory.problem
            or f"offload needs {size(sum(memory.host.values()))},"
            f" a node's CPU has {size(memory.host_limit)}"
        )
        advice = (
            f"any of these would: {'; '.join(plan.help)}"
            if plan.help
            else "no schedule.micro_batch, ZeRO stage or offload would help"
        )
        return [f"DOES NOT FIT: {why}; {advice}."]
    lines = ["It fits.", binding(plan), *cache_lines(plan), *lasting_lines(plan)]
    lines += [] if cluster.kind == CPU else kernel_lines(plan)
    if plan.cores_asked > cluster.cores:
        lines.append(
            f"Workers and loaders of a node want {plan.cores_asked} cores, it has {cluster.cores}."
        )
    hidden = plan.speed.parts["Python and launches"]
    if cluster.kind != CPU and hidden > 0.3 * plan.speed.step:
        lines.append(
            f"{hidden / plan.speed.step:.0%} of a step is launches that no work hides"
            f" ({config.partition.micro_batch} images at once): fewer GPUs or a larger batch would"
            " use them better."
        )
    return lines


def kernel_lines(plan: Estimate) -> list[str]:
    """What of the head a GPU does without our kernels, and why."""
    model, shape, tiles = plan.config.model, plan.outline, plan.memory.tiles
    ist = attention_fault(shape.joint, model.heads, model.neighbours + model.self_loops)
    if tiles and tiles.categories < plan.sizes.seen:
        ist = f"a tile holds {tiles.categories:,} of {plan.sizes.seen:,} categories"
    faults = {
        "ISR": assignment_fault(shape.patches) if model.isr else "",
        "IST": ist if model.ist else "",
    }
    return [
        f"{part} runs in torch, not in our kernel ({fault}): slower, by how much is not measured."
        for part, fault in faults.items()
        if fault
    ]


def cache_lines(plan: Estimate) -> list[str]:
    """What `loader.cache` changes, where it is given: what fills it, and what it leaves to the
    storage.
    """
    caching = plan.caching
    if not caching:
        return []
    filled = caching.needed * (1 - caching.read)
    rest = "later ones read the node's own disk alone"
    if caching.again:
        rest = f"the cache holds {1 - caching.missing:.0%} of them, so each later epoch copies"
        rest += f" {caching.again:.0%} of them again"
    if caching.read:
        rest = f"{caching.read:.0%} of a node's pictures find no room there, and are read from the"
        rest += " storage in every epoch"
    slower = plan.first.step / plan.speed.step - 1
    return [
        f"loader.cache: the first epoch copies {size(filled)} of shards to each node"
        f"{f', which makes it {slower:.0%} slower' if slower > 0.02 else ''}; {rest}."
    ]


def binding(plan: Estimate) -> str:
    """What keeps the training from being faster."""
    speed = plan.speed
    if speed.waiting <= 0.02 * speed.step:
        return (
            "The computing binds: pictures could come at"
            f" {speed.images / speed.loader:,.0f} a second, bound by {speed.binds}."
        )
    needed = max(1, -(-int(100 * plan.processes_needed) // 100))
    cores = f" ({plan.loader_cores:.1f} cores)" if speed.binds == DECODING else ""
    return (
        f"The training waits for data {speed.waiting / speed.step:.0%} of the time, bound by"
        f" {speed.binds}: {cure(speed.binds, needed)}{cores}."
    )


def lasting_lines(plan: Estimate) -> list[str]:
    """What costs most beyond the steps, and the time between checkpoints that costs least."""
    lasting = plan.lasting
    most = max(lasting.parts, key=lasting.parts.__getitem__)
    lines = [
        f"Beyond the steps go {1 - lasting.computing / lasting.total:.1%} of the hours, most of"
        f" them for {most}."
    ]
    rate = plan.cluster.failures_gpu_day
    if lasting.best_apart:
        lines += [
            f"At {rate:g} failures a {plan.unit}-day, here one in"
            f" {1 / (rate * plan.devices):,.3g} days, "
            f"checkpoints.seconds={lasting.best_apart:.0f} costs least;",
            f"now a checkpoint is due every {lasting.apart:,.0f} s, and written in"
            f" {seconds(lasting.writing)} beside the training.",
        ]
    if lasting.writing > lasting.apart:
        lines.append(
            f"A checkpoint takes {seconds(lasting.writing)} to be written and the next is due after"
            f" {seconds(lasting.apart)}: the training waits. Raise checkpoints.seconds."
        )
    return lines
