"""The keys of `c2srt bench`."""

from dataclasses import dataclass

from c2srt.errors import UserError
from c2srt.keys import Mark, key
from c2srt.shared_keys import shared

PRECISIONS = ("fp32", "bf16")
SIZES = (
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
    "pictures",
    "photographs",
    "nodes",
    "days",
)


@dataclass
class Config:
    """Keys of `c2srt bench`."""

    what: str = key(
        "",
        "head | isr | gat | loss | ignore | step | tracking | records | evaluation | predict | "
        "loader | packing",
        follows="???",
    )
    out: str = key("", "folder written: <what>.json", mark=Mark.HARMLESS, follows="${work}")
    seed: int = shared("seed")
    device: str = key("auto", "auto: the GPU if there is one | cpu | cuda")
    precision: str = key("fp32", "fp32 | bf16")
    threads: int = key(2, "CPU threads", mark=Mark.HARMLESS)
    repeats: int = key(5, "timed turns of each side (the median counts)")
    warmup: int = key(1, "turns before")
    categories: int = key(7186, "C; at 7,186 the graph is the shipped one, else random")
    patches: int = key(196, "P")
    width: int = key(512, "D")
    neighbours: int = key(4, "K, and the self-loop")
    heads: int = key(8, "H")
    layers: int = key(2, "GATv2 layers")
    batch: int = key(8, "images of the side that is timed", mark=Mark.HARMLESS)
    large_batch: int = key(
        64,
        "head: whose memory is compared; ignore: images of the subgraphs' side",
        mark=Mark.HARMLESS,
    )
    literal_batch: int = key(1, "step: images of the literal side")
    verified: int = key(3, "verified categories an image (Open Images: about 3) …")
    present: int = key(2, "… and how many of them are present")
    clip: str = key("ViT-B-16", "step: open_clip's model, with random weights", mark=Mark.CONTENT)
    trainable_blocks: int | None = key(2, "step: last blocks of the ViT that train (null: all)")
    tile_mib: int | None = key(
        None,
        "memory of the head's tiles; null: 256 on a CPU, a quarter of a GPU's",
        unit="MiB",
    )
    images: int = key(125436, "evaluation: images of the test set …")
    unseen: int = key(400, "… its unseen categories, beside the seen `categories` …")
    labels: int = key(1667399, "… and its verified labels (Open Images V4's)")
    compared: int = key(
        1000,
        (
            "evaluation: categories of which torchmetrics, which needs whole "
            "arrays, is timed on all images"
        ),
    )
    nodes: int = key(64, "records: nodes of 8 GPUs whose values a record holds …")
    days: int = key(14, "… and how long they train before a restart")
    pictures: int = key(1024, "loader: drawn pictures, in four shards …")
    latency: list[float] = key([5, 20], "… and what each read takes longer", unit="ms")
    photographs: int = key(3072, "packing: pictures that each side packs with `threads` workers …")
    peer: str = key(
        "",
        "… and the Python of an environment that has img2dataset; empty: without that side",
        mark=Mark.HARMLESS,
    )

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UserError(f"precision={self.precision} is not one of {', '.join(PRECISIONS)}")
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(f"device={self.device} is not one of auto, cpu, cuda")
        if self.device == "cuda" and not has_gpu():
            raise UserError(
                "device=cuda, but torch finds no GPU here: see `nvidia-smi`, or take device=cpu"
            )
        for name in SIZES:
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        if min(self.latency, default=0) < 0:
            raise UserError(f"latency={self.latency} must not be below 0")
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
