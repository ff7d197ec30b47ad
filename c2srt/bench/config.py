"""The keys of `c2srt bench`."""

from dataclasses import dataclass

from c2srt.errors import UserError

PRECISIONS = ("fp32", "bf16")


@dataclass
class Config:
    """Keys of `c2srt bench`, explained in configs/bench.yaml."""

    what: str = ""
    out: str = ""
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"
    threads: int = 2
    repeats: int = 5
    warmup: int = 1
    categories: int = 7186
    patches: int = 196
    width: int = 512
    neighbours: int = 4
    heads: int = 8
    layers: int = 2
    batch: int = 8
    large_batch: int = 64
    literal_batch: int = 1
    verified: int = 3
    present: int = 2
    clip: str = "ViT-B-16"
    trainable_blocks: int | None = 2
    tile_mib: int | None = None
    images: int = 125_436
    unseen: int = 400
    labels: int = 1_667_399
    compared: int = 1000

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UserError(f"precision={self.precision} is not one of {', '.join(PRECISIONS)}")
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(f"device={self.device} is not one of auto, cpu, cuda")
        if self.device == "cuda" and not has_gpu():
            raise UserError(
                "device=cuda, but torch finds no GPU here: see `nvidia-smi`, or take device=cpu"
            )
        sizes = (
            "threads",
            "repeats",
            "categories",
            "patches",
            "width",
            "heads",
            "layers",
            "batch",
            "large_batch",
            "literal_batch",
            "present",
            "images",
            "unseen",
            "labels",
            "compared",
        )
        for name in sizes:
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        if self.labels > self.images * (self.categories + self.unseen) / 4:
            raise UserError(
                f"labels={self.labels} are too many for images={self.images}: at most a quarter of"
                " all pairs"
            )
        if not self.present <= self.verified <= self.categories:
            raise UserError(
                f"present={self.present}, verified={self.verified}, categories={self.categories}"
                " must not decrease"
            )


def has_gpu() -> bool:
    """Whether torch, which takes seconds to import, finds a GPU here."""
    import torch

    return torch.cuda.is_available()
