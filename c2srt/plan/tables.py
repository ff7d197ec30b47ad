"""A plan as text: one experiment on one screen, or several sizes of it as a Markdown table."""

from itertools import pairwise

from c2srt.plan.config import Config
from c2srt.plan.estimate import Estimate
from c2srt.plan.hardware import CPU
from c2srt.plan.units import flops, seconds, size
from c2srt.plan.verdict import cache_lines, verdict

WIDE, FIGURE = 34, 12


def screen(plan: Estimate, config: Config, source: str) -> list[str]:
    """One experiment."""
    return [
        *heading(plan, config),
        "",
        *beside(memory_lines(plan), step_lines(plan)),
        "",
        *verdict(plan),
        "",
        *beside(work_lines(plan), [*data_lines(plan), "", *network_lines(plan)]),
        "",
        *beside(run_lines(plan), disk_lines(plan)),
        "",
        *assumptions(plan, config, source),
    ]


def heading(plan: Estimate, config: Config) -> list[str]:
    partition, shape, train = plan.config.partition, plan.outline, plan.config
    padding = (
        f", {partition.padded - partition.batch} of {partition.padded} places padding"
        if partition.padded > partition.batch
        else ""
    )
    return [
        (
            f"{config.data_name}: {plan.sizes.train:,} training images, {plan.sizes.seen:,} seen +"
            f" {plan.sizes.unseen:,} unseen categories; {train.clip.name},"
            f" {shape.parameters / 1e6:.1f} M parameters, {shape.trained / 1e6:.1f} M train"
        ),
        (
            f"on {plan.devices} {plan.unit}{'s' * (plan.devices > 1)} ({plan.cluster.name},"
            f" {plan.nodes} node{'s' * (plan.nodes > 1)}): batch {partition.batch} ="
            f" {partition.micro_batch} × {train.workers} workers × {partition.accumulation}"
            f" accumulated{padding}; {train.engine.precision}, ZeRO {train.engine.zero}"
            f"{', offload' if train.engine.offload else ''}"
        ),
    ]


def beside(left: list[str], right: list[str]) -> list[str]:
    """Two blocks of lines in two columns."""
    rows = max(len(left), len(right))
    left, right = (lines + [""] * (rows - len(lines)) for lines in (left, right))
    return [
        f"{one:<{WIDE + FIGURE + 4}}{two}".rstrip() for one, two in zip(left, right, strict=True)
    ]


def block(title: str, rows: list[tuple[str, str]]) -> list[str]:
    return [title, *[f"  {name:<{WIDE - 2}}{figure:>{FIGURE}}" for name, figure in rows]]


def memory_lines(plan: Estimate) -> list[str]:
    memory = plan.memory
    rows = [(name, size(value)) for name, value in memory.parts.items() if value]
    rows += [
        ("total", size(memory.total)),
        ("there is", size(memory.limit)),
        ("left", size(memory.left)),
    ]
    rows += [(f"CPU memory of a node: {name}", size(value)) for name, value in memory.host.items()]
    return block(
        "Memory of a worker" if plan.cluster.kind == CPU else "Memory of a GPU's worker", rows
    )


def step_lines(plan: Estimate) -> list[str]:
    speed = plan.speed
    rows = [(name, seconds(value)) for name, value in speed.parts.items() if value]
    rows += [
        ("waiting for data", seconds(speed.waiting)),
        ("a step", seconds(speed.step)),
        ("images/s", f"{speed.images_s:,.1f}"),
        ("images/s of each worker", f"{speed.images_s / plan.config.workers:,.1f}"),
    ]
    return block("Time of a step", rows)


def work_lines(plan: Estimate) -> list[str]:
    work = plan.work
    rows = [
        ("ViT forward", flops(work.vit_forward)),
        ("ViT backward", flops(work.vit_backward)),
        ("ISR and loss, both ways", flops(work.isr)),
        ("IST, both ways", flops(work.ist)),
        ("online teacher", flops(work.teacher)),
        ("an image", flops(work.image)),
    ]
    total = work.image * plan.config.schedule.batch * plan.steps
    rows = [row for row in rows if row[1] != flops(0)]
    return block("Work of an image", [*rows, ("the whole run", f"{total / 1e18:,.2f} EFLOP")])


def data_lines(plan: Estimate) -> list[str]:
    cluster = plan.cluster
    return block(
        "Data",
        [
            ("loader cores needed a worker", f"{plan.loader_cores:.2f}"),
            ("of them asked for", f"{plan.config.loader.workers}"),
            ("decoding, a core", f"{cluster.decode_images_s:,.0f} img/s"),
            ("cores of a node used, of", f"{plan.cores_asked} / {cluster.cores}"),
        ],
    )


def network_lines(plan: Estimate) -> list[str]:
    limit = plan.cluster.disk_gb_s * 1e9
    return block(
        "Network",
        [
            ("bytes read by a node", f"{plan.read / 1e6:,.1f} MB/s"),
            ("storage gives a node", f"{limit / 1e6:,.0f} MB/s"),
            ("reads of a node", f"{plan.reads:,.0f} a second"),
            ("storage answers a node", f"{plan.cluster.reads_s:,.0f} a second"),
            ("one of them takes", f"{plan.cluster.read_latency_ms:,.2g} ms"),
            ("gradients a worker and step", size(plan.sync)),
        ],
    )


def run_lines(plan: Estimate) -> list[str]:
    lasting = plan.lasting
    hours = lasting.total / 3600
    rows = [
        ("steps", f"{plan.steps:,}"),
        ("hours computing", f"{plan.seconds / 3600:,.2f}"),
        *((name, f"{value / lasting.total:.2%}") for name, value in lasting.parts.items()),
        ("failures expected", f"{lasting.failures:,.2g}"),
        ("hours", f"{hours:,.2f}"),
        (f"{plan.unit}-hours", f"{plan.devices * hours:,.1f}"),
        ("before: shard, hours", f"{plan.shard_seconds / 3600:,.2f}"),
    ]
    if plan.teacher_seconds:
        rows.append(("before: teacher, hours", f"{plan.teacher_seconds / 3600:,.2f}"))
    return block("The run", rows)


def disk_lines(plan: Estimate) -> list[str]:
    raw = plan.sizes.images * plan.sizes.raw_bytes
    rows = [(name, size(value)) for name, value in plan.disk.items()]
    return block(
        "Disk",
        [
            ("originals (raw)", size(raw)),
            *rows,
            ("total without originals", size(sum(plan.disk.values()))),
        ],
    )


def comparison(plans: list[Estimate], config: Config, source: str) -> list[str]:
    """Several numbers of GPUs as a Markdown table."""
    one = plans[0]
    unit = f"{one.unit}s"
    names = columns(unit)
    head = (
        f"{config.data_name}, {one.config.clip.name}, {one.steps:,} steps of batch"
        f" {one.config.schedule.batch}, {one.config.engine.precision}, ZeRO"
        f" {one.config.engine.zero},"
        f" {one.config.loader.workers} loader processes a worker, on {one.cluster.name}:"
    )
    lines = [
        head,
        "",
        "| " + " | ".join(names) + " |",
        "|" + "---|" * len(names),
        *["| " + " | ".join(cells(plan)) + " |" for plan in plans],
        "",
        *hardly_faster(plans, unit),
    ]
    lines += [
        f"- {plan.devices:,} {unit}: {line}"
        for plan in plans
        if not plan.memory.fits
        for line in verdict(plan)
    ]
    lines += [f"- {plan.devices:,} {unit}: {line}" for plan in plans for line in cache_lines(plan)]
    disk = ", ".join(f"{name} {size(value)}" for name, value in one.disk.items())
    return [*lines, f"- Disk: {disk}.", *assumptions(one, config, source)]


def columns(unit: str) -> list[str]:
    """The names over what `cells` says."""
    return [
        unit,
        "nodes",
        "images a worker at once × accumulated",
        "memory of a worker",
        "step",
        "images/s",
        "of each worker",
        "sync",
        "waiting for data",
        "loader cores a worker",
        "hours",
        unit[:-1] + "-hours",
        "beyond the steps",
        "shard job, h",
        "teacher job, h",
    ]


def cells(plan: Estimate) -> list[str]:
    """One number of GPUs, a row of the table."""
    memory = size(plan.memory.total)
    return [
        f"{plan.devices:,}",
        f"{plan.nodes}",
        f"{plan.config.partition.micro_batch} × {plan.config.partition.accumulation}",
        memory if plan.memory.fits else f"**{memory}: does not fit**",
        seconds(plan.speed.step),
        f"{plan.speed.images_s:,.0f}",
        f"{plan.speed.images_s / plan.config.workers:,.0f}",
        f"{plan.speed.parts['gradient sync'] / plan.speed.step:.1%}",
        f"{plan.speed.waiting / plan.speed.step:.0%}",
        f"{plan.loader_cores:.1f}",
        f"{plan.lasting.total / 3600:,.2f}",
        f"{plan.devices * plan.lasting.total / 3600:,.1f}",
        f"{1 - plan.lasting.computing / plan.lasting.total:.1%}",
        f"{plan.shard_seconds / 3600:,.2f}",
        f"{plan.teacher_seconds / 3600:,.2f}",
    ]


def hardly_faster(plans: list[Estimate], unit: str) -> list[str]:
    """A line for every number of GPUs that gains little on the one before."""
    return [
        f"- {after.devices:,} {unit} are hardly faster than {before.devices:,}: with so few"
        f" images at once ({after.config.partition.micro_batch}) each waits for launches. Take a"
        " larger batch or fewer of them."
        for before, after in pairwise(plans)
        if after.speed.images_s < 1.1 * before.speed.images_s
    ]


def assumptions(plan: Estimate, config: Config, source: str) -> list[str]:
    """What the figures rest on."""
    cluster, sizes = plan.cluster, plan.sizes
    rates = (
        f"Rates come from {config.calibration}, measured on the machine named there"
        if config.calibration
        else (
            f"Rates are those of configs/cluster/{cluster.name.lower()}.yaml, whose comments say"
            " which are measured, which assumed; no step of ours was ever timed on a GPU"
            if cluster.kind != CPU
            else (
                "Rates are assumptions of configs/cluster/cpu.yaml: calibrate=true measures this"
                " machine"
            )
        )
    )
    precision = plan.config.engine.precision
    lines = [
        rates + ".",
        (
            f"{cluster.rate(precision) / 1e12:g} TFLOP/s {precision}"
            f" products{' a core' if cluster.kind == CPU else ''}, {cluster.vit_efficiency:.2f} of"
            f" it in the ViT, {cluster.isr_efficiency:.2f} in ISR, {cluster.ist_efficiency:.2f} in"
            f" IST; memory {cluster.bandwidth_gb_s:,.0f} GB/s; all-reduce {cluster.link_gb_s:g}"
            f" GB/s in a node, {cluster.network_gb_s:g} between nodes, not hidden behind the"
            " backward."
        ),
        f"Sizes: {source}; {sizes.packed_bytes / 1e3:.1f} kB a packed image.",
    ]
    if sizes.trained:
        lines.append(
            f"An epoch is every one of {sizes.train:,} images, an upper bound: sharding leaves out"
            f" those without a verified label, and {sizes.trained:,}"
            f" ({sizes.trained / sizes.train:.0%}) have one of a seen category."
        )
    lines.append(
        f"A start takes {cluster.start_s:g} s, a record {cluster.record_ms:g} ms, failures come"
        f" {cluster.failures_gpu_day:g} times a GPU-day (cluster.failures_gpu_day). Left out:"
        " validation, the wait in a queue, and the file system's caches."
    )
    return ["Assumptions:", *[f"- {line}" for line in lines]]
