"""The real training step on synthetic pictures, in processes of its own, and the pieces that a
calibration times.

A harness's processes are what Ray's workers are in a training: torch.distributed, the engine, the
loader with its decoding processes. They wait between two calls, so that several harnesses can take
turns on one machine.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import simplejpeg
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from c2srt.backbone.clip import Clip, load_clip
from c2srt.backbone.config import RANDOM
from c2srt.errors import UserError
from c2srt.interrupts import without_sigint
from c2srt.loader import Batch, LoaderConfig, collate, iterate
from c2srt.model.config import ModelConfig
from c2srt.model.graph import Graph
from c2srt.model.head import Head
from c2srt.model.network import C2SRT
from c2srt.model.tiling import budget_bytes, choose_tiling
from c2srt.plan.sizes import Sizes
from c2srt.samples import Sample
from c2srt.train.config import ONLINE, Config
from c2srt.train.world import World
from c2srt.views import decode, view_pixels

COPY_BYTES, DECODED, POSITIVE = 2**26, 16, 3
START_S = 600
WALL, CPU_TIME = "wall", "cpu"


class Harness:
    """Processes that repeat training steps of `cases` (by name; all of one number of workers).
    `pieces`: images at once of the parts of the first case to time as well ([]: none). `clock`:
    wall, or cpu: the CPU time of each process by its threads, which other jobs on the machine do
    not change much.

    Use it as a context. Raises UserError if a process dies.
    """

    def __init__(
        self, cases: dict[str, Config], sizes: Sizes, pieces: list[int], clock: str = WALL
    ) -> None:
        self.workers = next(iter(cases.values())).workers
        cases = {
            name: replace(case, clip=replace(case.clip, pretrained=RANDOM))
            for name, case in cases.items()
        }
        self.arguments = (cases, sizes, pieces, clock)

    def __enter__(self) -> "Harness":
        context = multiprocessing.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory()
        self.pipes, self.processes = [], []
        for rank in range(self.workers):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=serve, args=(theirs, rank, self.folder.name, *self.arguments)
            )
            with without_sigint():
                process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)
        self.pieces = self.answer()[0]
        return self

    def __exit__(self, *_) -> None:
        for pipe in self.pipes:
            pipe.close()  # the process reads the end of its pipe, and ends
        for process in self.processes:
            process.join(20)
            if process.is_alive():
                process.kill()
                process.join()
        self.folder.cleanup()

    def seconds(self, piece: str) -> float:
        """One call of a piece (or one step of a case) on all processes at the same time: the
        slowest one's seconds.
        """
        for pipe in self.pipes:
            pipe.send(piece)
        return max(self.answer())

    def answer(self) -> list:
        try:
            found = [pipe.recv() if pipe.poll(START_S) else None for pipe in self.pipes]
        except EOFError:
            raise UserError("a process of the measurement died: its message is above") from None
        if any(one is None for one in found):
            raise UserError(
                f"a process of the measurement did not answer within {START_S} s: this machine is"
                " too busy"
            )
        return found


def serve(
    pipe,
    rank: int,
    folder: str,
    cases: dict[str, Config],
    sizes: Sizes,
    images: list[int],
    clock: str,
) -> None:
    """One process of a harness: says which pieces it has, then times what it is asked for, until
    the pipe closes.
    """
    config = next(iter(cases.values()))
    size, cuda = config.workers, torch.cuda.is_available() and config.resources.gpus_per_worker > 0
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="1",
    )
    device = torch.device("cuda", rank % torch.cuda.device_count()) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if cuda else "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size
    )
    threads = World(rank, size, size, device).set_threads(config.loader.workers)
    now = time.perf_counter if clock == WALL else lambda: time.process_time() / threads
    calls = piece_calls(config, sizes, images, device) if images else {}
    for name, case in cases.items():
        calls[name] = step_call(case, sizes)
    pipe.send(list(calls))
    try:
        while True:
            call = calls[pipe.recv()]
            dist.barrier()
            started = now()
            call()
            if cuda:
                torch.cuda.synchronize(device)
            pipe.send(now() - started)
    except EOFError:
        dist.destroy_process_group()


def make_student(config: Config, sizes: Sizes) -> tuple[C2SRT, Clip, Graph]:
    """The configured model with random weights, text and graph."""
    torch.manual_seed(config.seed)
    clip = load_clip(config.clip)
    text = F.normalize(torch.randn(sizes.seen, clip.width), dim=-1)
    graph = Graph(text, torch.randint(0, sizes.seen, (sizes.seen, config.model.neighbours)))
    return (
        C2SRT(clip, config.model, config.loss, graph, sizes.seen, config.teacher == ONLINE),
        clip,
        graph,
    )


def step_call(config: Config, sizes: Sizes) -> Callable[[], None]:
    """One update: the engine on batches from the loader."""
    from c2srt.train.engine import Engine
    from c2srt.train.groups import parameter_groups

    student, clip, _ = make_student(config, sizes)
    groups = parameter_groups(student, student.parameter_depth, config.optimizer)
    engine = Engine(
        student, groups, config.engine, config.partition, config.optimizer.clip_grad_norm
    )
    batches = synthetic(config, sizes, clip.image_size, clip.width)

    def step() -> None:
        micro = (
            batch.to(engine.device) for batch in islice(batches, config.partition.accumulation)
        )
        engine.train_step(
            ((batch.images, batch.labels, batch.teacher, batch.weights) for batch in micro), 1.0
        )

    return step


def picture(sizes: Sizes, seed: int) -> bytes:
    """A JPEG of 4:3 with the short side of packed images, whose coarse and fine noise make it about
    as large in bytes.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    height, width = sizes.short_side, sizes.short_side * 4 // 3
    coarse = torch.from_numpy(generator.uniform(0, 255, (1, 3, 12, 16)).astype(np.float32))
    smooth = F.interpolate(coarse, (height, width), mode="bicubic")[0].permute(1, 2, 0).numpy()
    best = b""
    for fine in (2, 4, 8, 12, 16, 24, 32):
        noisy = np.ascontiguousarray(
            (smooth + generator.normal(0, fine, smooth.shape)).clip(0, 255).astype(np.uint8)
        )
        encoded = simplejpeg.encode_jpeg(noisy, 90, "RGB", "420")
        if not best or abs(len(encoded) - sizes.packed_bytes) < abs(len(best) - sizes.packed_bytes):
            best = encoded
    return best


def decoded(config: Config, pictures: list[bytes], size: int, view: int = 0) -> list[Tensor]:
    """What a loader process does for each image."""
    return [
        view_pixels(decode(one), config.views, config.seed, str(number), view, size)
        for number, one in enumerate(pictures)
    ]


def synthetic(config: Config, sizes: Sizes, size: int, width: int) -> Iterator[Batch]:
    """Endless micro-batches through the real loader; the pictures repeat, the labels are random."""
    count, pictures = (
        config.partition.micro_batch,
        [picture(sizes, seed) for seed in range(DECODED)],
    )

    def batch_at(position: int) -> Batch:
        chosen = [pictures[(position * count + number) % len(pictures)] for number in range(count)]
        images = decoded(config, chosen, size)
        labels = np.zeros((count, sizes.seen), np.int8)
        labels[
            np.arange(count)[:, None],
            np.random.default_rng(position).integers(0, sizes.seen, (count, POSITIVE)),
        ] = 1
        found = [
            Sample(str(number), image.numpy(), row)
            for number, (image, row) in enumerate(zip(images, labels, strict=True))
        ]
        features = np.ones((count, width), np.float16) if config.uses_teacher else None
        return collate(found, images, features, np.ones(count, np.float32), position, 0, 0)

    loader = LoaderConfig(
        size=size, batch=config.schedule.batch, micro_batch=count, workers=config.loader.workers
    )
    return iterate(batch_at, range(2**40), loader)


def piece_calls(
    config: Config, sizes: Sizes, images: list[int], device: torch.device
) -> dict[str, Callable[[], object]]:
    """ "gemm", "copy", "decode", and for each B of `images` "tower-B", "isr-B", "head-B": the parts
    of a step alone, forward and backward, on the same device and in the same type as the training.
    """
    from c2srt.train.report import DTYPES

    student, clip, graph = make_student(config, sizes)
    pictures = [picture(sizes, seed) for seed in range(DECODED)]
    dtype = DTYPES[config.engine.precision]
    tower = student.tower.to(device, dtype)
    sizes_of = tower.sizes()
    rows = max(images) * sizes_of.tokens
    left = torch.randn(rows, sizes_of.width, device=device, dtype=dtype)
    right = torch.randn(sizes_of.width, sizes_of.mlp, device=device, dtype=dtype)
    repeats = max(1, int(2e9 / (2 * rows * sizes_of.width * sizes_of.mlp)))
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    calls = {
        "gemm": lambda: [left @ right for _ in range(repeats)],
        "copy": lambda: target.copy_(source),
        "decode": lambda: decoded(config, pictures, clip.image_size),
    }
    for name, model in (
        ("isr", replace(config.model, isr=True, ist=False)),
        ("head", replace(config.model, isr=True, ist=True)),
    ):
        for count in images:
            calls[f"{name}-{count}"] = head_call(
                model, student, clip.logit_scale, graph.to(device), count, device, dtype, config
            )
    for count in images:
        calls[f"tower-{count}"] = tower_call(tower, count, tower.image_size, device, dtype)
    return calls


def tower_call(
    tower, count: int, size: int, device: torch.device, dtype: torch.dtype
) -> Callable[[], None]:
    pixels = torch.randn(count, 3, size, size, device=device, dtype=dtype)

    def call() -> None:
        tower.zero_grad(set_to_none=True)
        patches, global_ = tower(pixels)
        (patches.float().mean() + global_.float().mean()).backward()

    return call


def head_call(
    model: ModelConfig,
    student: C2SRT,
    scale: float,
    graph: Graph,
    count: int,
    device: torch.device,
    dtype: torch.dtype,
    config: Config,
) -> Callable[[], None]:
    """Head and loss. W_out is random: with init=clip it would start as zero."""
    width, seen = graph.text.shape[1], len(graph.text)
    head = Head(width, model, scale)
    if model.ist:
        torch.nn.init.normal_(head.output, std=0.1)
    head = head.to(device, dtype)
    patches = torch.randn(
        count, student.patch_count, width, device=device, dtype=dtype, requires_grad=True
    )
    global_ = torch.randn(count, width, device=device, dtype=dtype, requires_grad=True)
    labels = torch.zeros(count, seen, dtype=torch.int8, device=device)
    labels[:, :POSITIVE] = 1
    tiles = choose_tiling(
        student.shape(seen, device, dtype), model, count, budget_bytes(model, device)
    )

    def call() -> None:
        head.zero_grad(set_to_none=True)
        patches.grad = global_.grad = None
        head(patches, global_, labels, torch.ones(count, device=device), graph, config.loss, tiles)[
            0
        ].backward()

    return call


def gemm_flops(outline, images: int) -> float:
    """Of one "gemm" call."""
    one = 2 * images * outline.tokens * outline.width * outline.mlp
    return one * max(1, int(2e9 / one))
