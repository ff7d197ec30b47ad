"""The miniature's CLIP as it comes with the package, so that a demo need not pre-train it.

The file holds what was trained and of the token table (49,408 rows, nine tenths of the model) only
the rows that the miniature's texts use; the others, words that this CLIP has never read, are drawn
anew, bit for bit on every machine, and a hash over the whole says whether it is the one recorded.

`python -m c2srt.demo.shipped FOLDER` makes the file of a CLIP that `c2srt demo pretrain=true` left
in FOLDER.
"""

import hashlib
import json
import sys
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from c2srt.backbone.miniature import MODEL
from c2srt.backbone.tokens import tokenizer_of
from c2srt.demo.captions import FORMS, caption, captioned_picture
from c2srt.demo.pretrain import IMAGES, clip_key, write_clip
from c2srt.demo.words import FIRST, World
from c2srt.errors import UserError
from c2srt.hints import Command

FILE = files("c2srt").joinpath("data_files", "miniature_clip.safetensors")
TABLE, TOKENS, ROWS = "token_embedding.weight", "tokens", "rows"
"""The token table of a whole state, and what the file has in its place: ids and their rows."""


def shipped_record() -> dict[str, str]:
    """What the file says of itself: `key` (the recipe's, c2srt/demo/pretrain.py), `seed`, `sha256`
    of the whole state, and `deviation`, the size of the rows that are drawn.
    """
    with as_file(FILE) as path, safe_open(path, "pt") as opened:
        return opened.metadata()


def is_shipped(seed: int, world: World = FIRST) -> bool:
    """Whether the CLIP that today's recipe makes of them is the one in the file."""
    return shipped_record()["key"] == clip_key(seed, world)


def unpack(folder: Path, seed: int) -> None:
    """Writes the CLIP as pre-training does. Raises UserError if it is not the recorded one."""
    record = shipped_record()
    with as_file(FILE) as path:
        state = load_file(path)
    tokens, rows = state.pop(TOKENS), state.pop(ROWS)
    state[TABLE] = whole_table(tokens, rows, float(record["deviation"]))
    if (found := digest(state)) != record["sha256"]:
        raise UserError(
            f"the CLIP of {FILE} came out as another one (SHA-256 {found[:16]}…, recorded"
            f" {record['sha256'][:16]}…): install the package again, or make it anew with"
            " pretrain=true"
        )
    write_clip(folder, state, seed, FIRST, shipped=True)


def whole_table(tokens: Tensor, rows: Tensor, deviation: float) -> Tensor:
    """float32 [vocabulary, width]: these rows at these ids, the others uniform with that standard
    deviation, from the generator's own whole numbers by one exact product: no library of
    mathematics, whose last bit differs between processors.
    """
    vocabulary, width = MODEL["text_cfg"]["vocab_size"], rows.shape[1]
    whole = (np.random.PCG64(0).random_raw(vocabulary * width) >> 40).astype(np.int32) - 2**23
    drawn = whole.astype(np.float32) * np.float32(deviation * 3**0.5 / 2**23)
    table = torch.from_numpy(drawn.reshape(vocabulary, width))
    table[tokens] = rows
    return table


def digest(state: dict[str, Tensor]) -> str:
    """SHA-256 of names, shapes and values."""
    found = hashlib.sha256()
    for name in sorted(state):
        found.update(f"{name}{tuple(state[name].shape)}".encode())
        found.update(state[name].numpy().tobytes())
    return found.hexdigest()


def pack(folder: Path, seed: int) -> None:
    """Makes the file of the pre-trained CLIP in `folder`."""
    record = json.loads((folder / "clip.json").read_text(encoding="utf-8"))
    if record["key"] != clip_key(seed):
        raise UserError(
            f"{folder} is of another recipe or seed: run `{Command('demo', pretrain=True)}`"
        )
    state = load_file(folder / "model.safetensors")
    tokens, table = used_tokens(seed), state.pop(TABLE)
    rows = table[tokens].contiguous()
    deviation = repr(rows.std().item())
    whole = {**state, TABLE: whole_table(tokens, rows, float(deviation))}
    metadata = {
        "key": record["key"],
        "seed": str(seed),
        "sha256": digest(whole),
        "deviation": deviation,
    }
    with as_file(FILE) as path:
        save_file({**state, TOKENS: tokens, ROWS: rows}, path, metadata)


def used_tokens(seed: int) -> Tensor:
    """Ids that the captions of pre-training use, or the prompts of the miniature's names."""
    texts = {caption(captioned_picture(FIRST, seed, number), seed) for number in range(IMAGES)}
    texts |= {form.format(category.name) for form in FORMS for category in FIRST.categories}
    return tokenizer_of(MODEL)(sorted(texts), MODEL["text_cfg"]["context_length"]).unique()


if __name__ == "__main__":
    pack(Path(sys.argv[1]), 0)
