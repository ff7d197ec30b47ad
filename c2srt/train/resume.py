"""Where a training goes on. Rank 0 alone looks at the checkpoints and reads the one that counts;
the others hear what it read, a tensor at a time: hundreds of ranks cost the storage as much as one.
"""

import logging
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from c2srt.errors import UserError
from c2srt.model.network import Network
from c2srt.train import checkpoints
from c2srt.train.checkpoints import Record
from c2srt.train.config import Config
from c2srt.train.inputs import Inputs
from c2srt.train.sample_log import SAMPLES, forget_samples_after
from c2srt.train.tiles import settle_tiles
from c2srt.train.world import World
from c2srt.versions import others

log = logging.getLogger(__name__)


def resume(
    config: Config, world: World, inputs: Inputs, model: Network
) -> tuple[Record, Path | None]:
    """Where to go on: the newest sound checkpoint's record and folder, or step 0 and None; settles
    the model's tiles. Raises UserError on another run's.
    """
    found, before = find_checkpoint(config, world)
    record = Record(0, world.size, config.identity(), inputs.hashes, config.settings())
    if found and before:
        checkpoints.check_resumable(found, before, config.identity(), inputs.hashes)
        if world.first and before.world_size != world.size:
            log.info(f"checkpoint of {before.world_size} workers goes on with {world.size}")
        if world.first and (other := others(before.versions)):
            log.info(
                f"this checkpoint was written with {other}: the same samples and schedule, but"
                " losses may differ from there on in their last digits"
            )
        record = replace(before, world_size=world.size, settings=config.settings())
    record = settle_tiles(config, world, record)
    model.tile_bytes = record.tile_bytes
    if world.first:
        forget_samples_after(config.folder / SAMPLES, record.step)
    world.barrier()
    return record, found


def find_checkpoint(config: Config, world: World) -> tuple[Path | None, Record | None]:
    """The newest sound checkpoint and its record, as rank 0 reads and checks them."""
    found = record = problem = None
    if world.first:
        try:
            found = checkpoints.newest(config.folder / "checkpoints")
            record = checkpoints.read_record(found) if found else None
        except UserError as error:
            problem = str(error)
    found, record, problem = world.from_first((found, record, problem))
    if problem:
        raise UserError(problem)
    return found, record


class Tensors:
    """The tensors of a checkpoint's file, in float32 on each rank's CPU, read by rank 0 one at a
    time. Every rank asks for the same ones in the same order.
    """

    def __init__(self, path: Path, world: World) -> None:
        self.path, self.world = path, world
        self.file = checkpoints.open_tensors(path) if world.first else None
        shapes = checkpoints.shapes_of(self.file, path) if self.file else {}
        self.shapes: dict[str, list[int]] = world.from_first(shapes)

    def __call__(self, name: str) -> Tensor:
        """Raises UserError if there is none of that name."""
        if name not in self.shapes:
            raise checkpoints.unreadable(self.path, f"it holds no {name}")
        if self.file:
            with checkpoints.readable(self.path):
                whole = self.file.get_tensor(name).float()
        else:
            whole = torch.empty(self.shapes[name])
        whole = whole.to(self.world.device)
        dist.broadcast(whole, 0)
        return whole.cpu()

    def all(self) -> dict[str, Tensor]:
        return {name: self(name) for name in self.shapes}
