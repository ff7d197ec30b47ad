"""Whole steps of ViT, head and loss with AdamW: ours against the literal one, many in a row, and
what the profiler counts.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from c2srt.backbone.clip import Clip, load_clip
from c2srt.backbone.config import RANDOM, ClipConfig
from c2srt.bench.config import Config as Bench
from c2srt.bench.sizes import LOSS, neighbour_table
from c2srt.check.case import Case
from c2srt.check.config import Shape
from c2srt.model.config import ModelConfig
from c2srt.model.graph import Graph
from c2srt.model.network import C2SRT
from c2srt.profiling import MIB, median_seconds, synchronise

LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
WOULD_WAIT = ("aten::_local_scalar_dense", "aten::nonzero")
"""What makes the host wait for a GPU, as a CPU can count it: a value read, a size that depends on
data.
"""
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
LAYERS = {"tiny": 3, "deep": 12}
"""Blocks of the ViTs that are no model of open_clip."""
TOP = 10


def tiny_model(shape: Shape, layers: int = 3) -> dict:
    """An open_clip config with so many patches and such a width, for a CPU."""
    vision = {"image_size": 8 * round(shape.patches**0.5), "layers": layers}
    vision |= {"width": 64, "patch_size": 8, "head_width": 32}
    return {"embed_dim": shape.width, "vision_cfg": vision, "text_cfg": TEXT}


def clip_config(case: Case, shape: Shape) -> ClipConfig:
    """open_clip's own model, or a tiny one as a file; random weights."""
    if shape.clip not in LAYERS:
        return ClipConfig(shape.clip, RANDOM)
    path = case.out / f"{shape.clip}-{shape.width}.json"
    path.write_text(json.dumps(tiny_model(shape, LAYERS[shape.clip])), encoding="utf-8")
    return ClipConfig(str(path), RANDOM)


def make_clip(case: Case, shape: Shape) -> Clip:
    return load_clip(clip_config(case, shape))


def make_graph(case: Case, width: int, unseen: int = 0) -> Graph:
    """Random unit text, and the shipped relation graph at the size of Open Images; the unseen hear
    some seen ones.
    """
    sizes = case.sizes
    torch.manual_seed(0)
    text = F.normalize(torch.randn(sizes.categories + unseen, width), dim=-1)
    table = neighbour_table(Bench(categories=sizes.categories, neighbours=sizes.neighbours))
    return Graph(
        text, torch.cat([table, torch.randint(0, sizes.categories, (unseen, sizes.neighbours))])
    )


def make_student(case: Case, shape: Shape, form: str = "tiled", unseen: int = 0) -> C2SRT:
    """A student with random weights on the device, in the type of a training."""
    clip = make_clip(case, shape)
    model = ModelConfig(form=form, heads=shape.heads, neighbours=case.sizes.neighbours)
    student = C2SRT(clip, model, LOSS, make_graph(case, clip.width, unseen), case.sizes.categories)
    torch.nn.init.normal_(student.head.output, std=0.1)  # with init=clip it would start as zero
    return student.to(case.device, case.dtype)


def make_batch(case: Case, student: C2SRT, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """images, labels, teacher's features, weights."""
    size, width = student.tower.image_size, student.tower.width
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, device=case.device)
    labels = torch.zeros(count, case.sizes.categories, dtype=torch.int8, device=case.device)
    labels[:, :2], labels[:, 2] = 1, -1
    return (
        images,
        labels,
        torch.randn(count, width, device=case.device),
        torch.ones(count, device=case.device),
    )


@dataclass
class Step:
    """Forward, backward and AdamW on one batch; `tower` of the ViT alone, forward and backward."""

    student: C2SRT
    batch: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        trained = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5)

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.student(*self.batch)["loss"].backward()
        self.optimizer.step()

    def tower(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        patches, global_ = self.student.tower(self.student.pixels(self.batch[0]))
        (patches.float().mean() + global_.float().mean()).backward()

    def tile_images(self) -> int:
        """Images of a tile, as the next step would be cut."""
        graph = self.student.graph_on(self.batch[0].device).first(self.student.seen_count)
        like = next(self.student.tower.parameters()).detach()
        return self.student.tiling(len(self.batch[0]), graph, like).images


def step(case: Case) -> Iterator[dict]:
    """The literal step one image at a time, ours at the largest and at the smallest batch, with
    launches and waits of a step.
    """
    sizes, base = case.sizes, case.sizes.base
    literal = measured(case, make_step(case, base, 1, "literal"), 1, sizes.repeats // 2)
    yield {"what": f"literal, {case.best}, batch 1", **literal}
    for batch in (sizes.batches[0], sizes.batches[-1]):
        ours = make_step(case, base, batch)
        figures = measured(case, ours, batch, sizes.repeats)
        tower = median_seconds(ours.tower, sizes.repeats, case.device)
        yield {
            "what": f"ours, {case.best}, batch {batch}",
            **figures,
            "ViT alone ms": 1e3 * tower,
            "times faster an image": literal["ms an image"] / figures["ms an image"],
            **profiled(case, ours)[0],
        }


def train(case: Case) -> Iterator[dict]:
    """Steps in a row at several micro-batches."""
    for batch in case.sizes.batches:
        yield from in_a_row(case, case.sizes.base, batch)


def large(case: Case) -> Iterator[dict]:
    """The same for the larger ViT, at a quarter of the largest micro-batch."""
    yield from in_a_row(case, case.sizes.large, max(1, case.sizes.batches[0] // 4))


def in_a_row(case: Case, shape: Shape, batch: int) -> Iterator[dict]:
    """One row of figures, one of the costliest kernels."""
    steps, train_step = case.sizes.steps, make_step(case, shape, batch)
    tiles = {}
    for number in range(1, steps + 1):
        if number in (1, steps * 5 // 6):
            tiles[number] = train_step.tile_images()
        train_step()
    what = f"{shape.name}, {case.best}, batch {batch}"
    figures = measured(case, train_step, batch, case.sizes.repeats)
    counts, costly = profiled(case, train_step)
    tile = {f"images a tile at step {number}": images for number, images in tiles.items()}
    yield {"what": what, **figures, **tile, **counts}
    yield {"what": f"{what}: ms of a step in", **costly}


def make_step(case: Case, shape: Shape, batch: int, form: str = "tiled") -> Step:
    student = make_student(case, shape, form)
    return Step(student, make_batch(case, student, batch))


def measured(case: Case, call: Callable[[], object], batch: int, repeats: int) -> dict[str, float]:
    """Median milliseconds, images a second, and on a GPU the peak memory."""
    if case.cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = median_seconds(call, max(1, repeats), case.device)
    found = {"ms": 1e3 * seconds, "ms an image": 1e3 * seconds / batch, "images/s": batch / seconds}
    return found | ({"peak MiB": torch.cuda.max_memory_allocated() / MIB} if case.cuda else {})


def profiled(case: Case, call: Callable[[], None]) -> tuple[dict[str, int], dict[str, float]]:
    """Launches and host waits of one call, and the costliest kernels in milliseconds (on a CPU:
    operators).
    """
    call()
    synchronise(case.device)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * case.cuda
    with profile(activities=activities) as recorded:
        call()
        synchronise(case.device)
    averages = recorded.key_averages()

    def count(names: tuple[str, ...]) -> int:
        return sum(entry.count for entry in averages if entry.key.startswith(names))

    time = "self_device_time_total" if case.cuda else "self_cpu_time_total"
    costly = sorted(averages, key=lambda entry: -getattr(entry, time))[:TOP]
    figures = {
        entry.key[:60]: getattr(entry, time) / 1e3 for entry in costly if getattr(entry, time) > 0
    }
    if case.cuda:
        return {
            "launches": count(LAUNCHES),
            "host waits": count(WAITS) - 1,
        }, figures  # one wait is ours
    return {
        "operators": sum(entry.count for entry in averages),
        "values read": count(WOULD_WAIT),
    }, figures


def throughput(case: Case) -> Iterator[dict]:
    """Teacher features of uint8 images, and scores over all categories, at the largest batch."""
    sizes, batch = case.sizes, case.sizes.batches[0]
    student = make_student(case, sizes.base, unseen=sizes.unseen)
    images = make_batch(case, student, batch)[0]
    clip = make_clip(case, sizes.base)
    clip.to(case.device)
    for what, call in (
        ("teacher, fp32", lambda: clip.images.global_features(images)),
        (
            f"predict, {case.best}, {sizes.categories + sizes.unseen} categories",
            lambda: student.scores(images),
        ),
    ):
        seconds = median_seconds(call, sizes.repeats, case.device)
        yield {"what": f"{what}, batch {batch}", "ms": 1e3 * seconds, "images/s": batch / seconds}
