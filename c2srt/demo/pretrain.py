"""Pre-trains the miniature's own tiny CLIP on captioned pictures and saves it as open_clip would
load any CLIP.

Two files in `folder`: model.json (open_clip's model config) and model.safetensors (a full state
dict). Training keeps rows only for the tokens that occur; at the end they are put into the full
byte-pair table, whose other rows keep a random value of the same size: words that this CLIP has
never read.

Shapes: n images, L tokens, D joint width, W words.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from c2srt.backbone.clip import build_model
from c2srt.backbone.miniature import MODEL, SIZE
from c2srt.backbone.tokens import tokenizer_of
from c2srt.backbone.tower import normalise
from c2srt.demo.captions import FORMS, ICONIC, captioned_chunk
from c2srt.demo.raw import chunks, in_processes
from c2srt.demo.words import FIRST, World
from c2srt.files import hash_of, whole_file, write_json
from c2srt.progress import Progress

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGES, STEPS, BATCH = 30_000, 1_500, 64
MUON, ADAMW = 0.01, 2e-3
"""Peak learning rates of the block matrices and of everything else."""
WORDS = 10.0
"""Weight of the auxiliary word loss at the start."""
PATCH_DROPOUT, DROPOUT_SHARE = 0.5, 0.75
"""Half of the patches are dropped for three quarters of the steps: twice the speed."""
WHITENED, WHITENING_FLOOR, WHITE = 1_000, 0.01, 0.25
"""Images whose patches are whitened, the smallest variance that counts, and the standard deviation
afterwards.
"""


def clip_key(seed: int, world: World = FIRST) -> str:
    """Identity of a pre-trained CLIP: seed, world and recipe."""
    words = [(category.name, category.words) for category in world.categories]
    return hash_of(
        [
            seed,
            words,
            FORMS,
            MODEL,
            ICONIC,
            IMAGES,
            STEPS,
            BATCH,
            MUON,
            ADAMW,
            WORDS,
            PATCH_DROPOUT,
            DROPOUT_SHARE,
            WHITENED,
            WHITENING_FLOOR,
            WHITE,
        ]
    )


def pretrain(folder: Path, seed: int, workers: int, world: World = FIRST) -> None:
    """Draws the captioned pictures, trains, and writes what came of it."""
    images, captions = captioned(world, seed, workers)
    state = train_clip(images, captions, caption_words(world, captions), seed, workers)
    write_clip(folder, state, seed, world)


def write_clip(
    folder: Path, state: dict[str, Tensor], seed: int, world: World, shipped: bool = False
) -> None:
    """model.json, model.safetensors and, last, clip.json with the key of the recipe; `shipped`: it
    was made elsewhere.
    """
    (folder / "clip.json").unlink(missing_ok=True)
    write_json(folder / "model.json", MODEL)
    with whole_file(folder / "model.safetensors") as path:
        save_file(state, path)
    record = {"key": clip_key(seed, world), "seed": seed, "images": IMAGES, "steps": STEPS}
    write_json(folder / "clip.json", record | ({"shipped": True} if shipped else {}))


def captioned(world: World, seed: int, workers: int) -> tuple[Tensor, list[str]]:
    """uint8 [n, 3, S, S] and a caption for each, drawn in `workers` processes."""
    images = torch.empty(IMAGES, 3, SIZE, SIZE, dtype=torch.uint8)
    captions: list[str] = []
    progress = Progress("drawing captioned pictures", IMAGES)
    for pixels, texts in in_processes(
        partial(captioned_chunk, world, seed), chunks(IMAGES), workers
    ):
        images[len(captions) : len(captions) + len(texts)] = torch.from_numpy(pixels).permute(
            0, 3, 1, 2
        )
        captions += texts
        progress.update(len(texts))
    progress.close()
    return images, captions


def train_clip(
    images: Tensor, captions: list[str], held: tuple[list[str], Tensor], seed: int, threads: int
) -> dict[str, Tensor]:
    """Contrastive training for a counted number of steps; returns the full open_clip state dict."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return contrastive(images, captions, held)
        finally:
            torch.set_num_threads(before)


def contrastive(
    images: Tensor, captions: list[str], held: tuple[list[str], Tensor]
) -> dict[str, Tensor]:
    model, tokens, used = compact_model(captions)
    whiten_patches(model.visual, images[:WHITENED])
    words, words_of = held
    reader = nn.Linear(MODEL["embed_dim"], len(words))
    optimizers = make_optimizers(model, reader)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    order, progress = epochs(len(images)), Progress("pre-training the tiny CLIP", STEPS, "steps")
    for step in range(STEPS):
        if step == int(DROPOUT_SHARE * STEPS):
            model.visual.patch_dropout.prob = 0.0
        batch = next(order)
        pixels = normalise(images[batch], mean, std)
        feature, patches = model.visual(pixels)
        text = model.encode_text(tokens[batch])
        word_losses = sum(
            word_loss(reader(seen), words_of[batch])
            for seen in (feature, patches.mean(1) @ model.visual.proj)
        )
        loss = clip_loss(feature, text, model.logit_scale) + word_weight(step) * word_losses
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(step)
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        progress.update(1, f"loss {loss.item():.2f}")
    progress.close(f"loss {loss.item():.2f}")
    return full_state(model, used)


def compact_model(captions: list[str]) -> tuple[Any, Tensor, Tensor]:
    """A trainable CLIP whose embedding has rows only for the tokens that occur; the captions' row
    numbers [n, L]; the tokens' ids in ascending order (so that the end-of-text token stays the
    largest, as open_clip's pooling needs).

    build_model starts from the same weights every time: seeds differ in pictures, captions, order
    and token rows.
    """
    config = {**MODEL, "vision_cfg": {**MODEL["vision_cfg"], "patch_dropout": PATCH_DROPOUT}}
    tokens = tokenizer_of(config)(captions, MODEL["text_cfg"]["context_length"])
    used, rows = tokens.unique(return_inverse=True)
    model: Any = build_model(config).train()
    model.visual.output_tokens = True
    model.token_embedding = nn.Embedding(len(used), MODEL["text_cfg"]["width"])
    nn.init.normal_(model.token_embedding.weight, std=0.02)
    return model, rows, used


@torch.no_grad()
def whiten_patches(visual: Any, images: Tensor) -> None:
    """Starts the patch embedding as a whitening of pixel patches: images uint8 [n, 3, S, S].

    Its filters are the patches' principal directions, each scaled to the same variance, so that
    edges, which say what shape a thing is, weigh as much as colours from the first step on (the
    first layer of Jordan's airbench).
    """
    size, width = MODEL["vision_cfg"]["patch_size"], MODEL["vision_cfg"]["width"]
    patches = (
        F.unfold(normalise(images, torch.tensor(MEAN), torch.tensor(STD)), size, stride=size)
        .transpose(1, 2)
        .flatten(0, 1)
    )
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    filters = vectors[:, -width:] / (values[-width:] + WHITENING_FLOOR).sqrt()
    visual.conv1.weight.copy_((WHITE * filters.T).view_as(visual.conv1.weight))


def make_optimizers(model: nn.Module, reader: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the transformer blocks, AdamW for the rest; each group keeps its
    peak learning rate.
    """
    blocks = [p for name, p in model.named_parameters() if "resblocks" in name and p.ndim == 2]
    others = [
        p
        for p in (*model.parameters(), *reader.parameters())
        if not any(p is block for block in blocks)
    ]
    muon = torch.optim.Muon([{"params": blocks, "peak": MUON}], weight_decay=0.01)
    adamw = torch.optim.AdamW(
        [{"params": others, "peak": ADAMW}], betas=(0.9, 0.98), weight_decay=0.01
    )
    return [muon, adamw]


def caption_words(world: World, captions: list[str]) -> tuple[list[str], Tensor]:
    """The world's words, and which of them each caption holds, float [n, W]."""
    words = sorted(
        {
            word
            for category in world.categories
            if category.kind != "event"
            for word in category.words
        }
    )
    column = {word: position for position, word in enumerate(words)}
    held = torch.zeros(len(captions), len(words))
    for row, text in enumerate(captions):
        held[row, [column[word] for word in text.split() if word in column]] = 1
    return words, held


def epochs(count: int):
    """Index batches without end; every image once an epoch, the ragged rest of an epoch left
    out.
    """
    while True:
        yield from torch.randperm(count)[: count // BATCH * BATCH].view(-1, BATCH)


def schedule(step: int) -> float:
    """Warm-up over the first 5 %, then a cosine to zero."""
    share = (step + 1) / STEPS
    return min(share / 0.05, 0.5 + 0.5 * math.cos(math.pi * share))


def word_weight(step: int) -> float:
    """The auxiliary loss fades out over the whole training."""
    return WORDS * (1 - step / STEPS)


def word_loss(logits: Tensor, words: Tensor) -> Tensor:
    """Which words does the caption hold? It teaches shapes earlier than contrast alone does."""
    return F.binary_cross_entropy_with_logits(logits, words)


def clip_loss(image: Tensor, text: Tensor, log_scale: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy over the batch."""
    logits = log_scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def full_state(model: nn.Module, used: Tensor) -> dict[str, Tensor]:
    """The state dict with the full token table [49408, width]: trained rows where tokens occurred,
    else random rows.
    """
    state = {
        name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()
    }
    rows = state["token_embedding.weight"]
    table = torch.randn(MODEL["text_cfg"]["vocab_size"], rows.shape[1]) * rows.std()
    table[used] = rows
    return {**state, "token_embedding.weight": table}
