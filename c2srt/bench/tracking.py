"""`c2srt bench tracking`: training steps with and without their MLflow record, at a real server;
and the two halves of the record.

"faster" of a half says how many times less it takes than the steps that it records: its share is
one over that. Writing it down happens on the training thread; sending it in another process, and
its time includes the server's own. Records of many nodes are records.py's.
"""

import atexit
import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from c2srt.backbone.clip import load_clip
from c2srt.backbone.config import ClipConfig
from c2srt.bench.config import Config
from c2srt.bench.sizes import LOSS, neighbour_table
from c2srt.bench.step import inputs, train_step
from c2srt.errors import UserError
from c2srt.model.config import ModelConfig
from c2srt.model.graph import Graph
from c2srt.model.network import C2SRT
from c2srt.profiling import DTYPES, Side, device_of
from c2srt.tracking import Run, Tracker
from c2srt.tracking.sender import Sender
from c2srt.tracking.sinks import MLFLOW
from c2srt.train.engine import Update
from c2srt.train.recorder import Recorder
from c2srt.train.world import World

LOG_EVERY, FLUSHES = 20, 3
"""Steps of a record, and how often a side writes one down: longer than the sender's pause."""
NAMES = ("loss", "ranking", "distillation", "drift")


def tracking(config: Config) -> list[Side]:
    """Blocks of steps of the student (tiled head, the given CLIP and batch), not recorded and
    recorded; one block's record.
    """
    folder = Path(tempfile.mkdtemp(prefix="c2srt-tracking-"))
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=0, world_size=1)
    uri = start_server(folder)
    student, batch = student_and_batch(config)
    world, recorders = World(0, 1, 1, device_of(config.device)), {}
    for name in ("plain", "tracked", "alone", "sent"):
        (folder / name).mkdir()
        tracker = (
            None if name == "plain" else Tracker(folder / name, uri, Run("bench", name, {}, {}))
        )
        recorders[name] = (
            Recorder(folder / name, world, tracker, 0, 1 << 30, config.batch),
            itertools.count(1),
        )
        recorders[name][0].progress = None  # its lines would stand among the bench's
    tracker = recorders["sent"][0].tracker
    assert tracker is not None
    tracker.close(None)
    sender = Sender(tracker.journal, uri, MLFLOW.sink)
    images = LOG_EVERY * FLUSHES * config.batch
    step = partial(train_step, student, *batch)
    return [
        Side(
            "steps, not recorded", partial(block, *recorders["plain"], step), images, baseline=True
        ),
        Side("steps, recorded", partial(block, *recorders["tracked"], step), images),
        Side("writing the record down", partial(block, *recorders["alone"], None), images),
        Side(
            "sending it",
            partial(send, tracker, sender, recorders["sent"][1]),
            images,
        ),
    ]


def block(recorder: Recorder, steps: itertools.count, step) -> None:
    """FLUSHES times LOG_EVERY steps (None: none) and their record."""
    for _ in range(FLUSHES):
        for _ in range(LOG_EVERY if step else 0):
            step()
            recorder.add(Update(dict.fromkeys(NAMES, 1.0), True, 1.0), 1e-3)
        if not step:
            recorder.add(Update(dict.fromkeys(NAMES, 1.0), True, 1.0), 1e-3)
        recorder.flush(next(steps) * LOG_EVERY)


def send(tracker: Tracker, sender: Sender, steps: itertools.count) -> None:
    """Sends what a block records: with one request, if the server answered before."""
    for _ in range(FLUSHES):
        step = next(steps) * LOG_EVERY
        tracker.metrics(
            dict.fromkeys((*NAMES, "learning_rate", "gradient_norm", *"abcdef"), 1.0), step
        )
        tracker.metrics(dict.fromkeys((f"system/{name}/mean" for name in "abcdef"), 1.0), step)
    sender.attempt()
    if sender.failing:
        raise UserError(
            f"the server at {tracker.uri} failed in the middle of the benchmark: run it again"
        )


def student_and_batch(config: Config) -> tuple[C2SRT, tuple]:
    device, clip = device_of(config.device), load_clip(ClipConfig(config.clip, "random"))
    torch.manual_seed(config.seed)
    text = torch.nn.functional.normalize(torch.randn(config.categories, clip.width), dim=-1)
    model = ModelConfig(
        layers=config.layers,
        heads=config.heads,
        neighbours=config.neighbours,
        tile_mib=config.tile_mib,
        trainable_blocks=config.trainable_blocks,
    )
    student = C2SRT(clip, model, LOSS, Graph(text, neighbour_table(config)), config.categories).to(
        device, DTYPES[config.precision]
    )
    return student, inputs(config, config.batch, clip.image_size, clip.width)


def start_server(folder: Path, seconds: float = 300) -> str:
    """A `mlflow server` of its own, ended with this process; returns its address. Raises UserError
    if it does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mlflow",
                "server",
                "--backend-store-uri",
                f"sqlite:///{folder}/mlflow.db",
                "--artifacts-destination",
                str(folder / "artifacts"),
                "--port",
                str(port),
                "--workers",
                "1",
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )

    def end() -> None:
        if server.poll() is None:
            os.killpg(server.pid, 9)

    atexit.register(end)
    uri, deadline = f"http://127.0.0.1:{port}", time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=5):
                return uri
        except OSError:
            time.sleep(0.2)
    raise UserError(f"`mlflow server` did not start: see {folder / 'server.log'}")
