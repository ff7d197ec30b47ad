"""Which of open_clip's models work here, and why others do not: `c2srt backbones`, and with it
docs/backbones.md. Nothing is built, and nothing asked of the hub or its cache.
"""

from dataclasses import dataclass

from c2srt.backbone import library
from c2srt.backbone.check import check_towers
from c2srt.backbone.listing_config import Config
from c2srt.errors import UserError
from c2srt.hints import typed
from c2srt.shown import markdown_table

HEAD = """# Backbones

Which of open_clip's {models} models work as `clip.name`. This page is what `{command}`
prints; `{some}` prints some of it.

No released weights were at hand when this was made. What is tested, for each family at a small size
with random weights, is that image, patch and text features equal open_clip's own, and that the
whole road runs: text features, relations, training, prediction.

- `clip.pretrained` is a tag of open_clip, or a file of weights in open_clip's names. A file is fed
  pixels normalised as all released weights of its model are. Those of {ambiguous} differ among
  themselves; a file of theirs is fed CLIP's own.
- `clip.name` may be a folder, too, that `hf download` made of an open_clip model, or
  `hf-hub:owner/model` for one in the hub's cache: config, tokenizer, pixels and weights are its.
- *tune*: whether `tune` can learn the prompts, which takes the first CLIP's text tower.
- *patches*: a patch passes what the pooled token passes (norm, projection); where the pool is
  attention, the pool of its token alone.
"""
TAKEN = """## Work as they are: {count}
"""
TOKENS = """## Need a tokenizer of the Hugging Face hub: {count}

`pip install 'c2srt[hub]'`, and `hf download <tokenizer>` where there is internet; then its files
are read from the hub's cache (`HF_HUB_CACHE`), from the folder that is `clip.name`, or from one
that the model config names as `hf_tokenizer_name`. Nothing is downloaded here. An export brings its
tokenizer.
"""
TOWERS = """## Need a text tower of the Hugging Face hub: {count}

As above; of the text tower its `config.json` is read, too (`hf_model_name`: the hub's name, or a
folder). Its weights are in the CLIP's. An export brings all that it needs.
"""
REFUSED = """## Refused: {count}
"""
POOLS = {"map": "attention", "token": "class token", "avg": "mean", "tok": "class token"}


@dataclass(frozen=True)
class Row:
    """A line of a table, and the section that it is in."""

    section: str
    cells: tuple[str, ...]


def run(config: Config) -> None:
    """The verb. Raises UserError if no model is meant."""
    names = [name for name in library.model_names() if config.named.lower() in name.lower()]
    if not names:
        raise UserError(f"named={config.named}: no model of open_clip has that in its name")
    print(page(names))


def page(names: list[str]) -> str:
    """The page, as Markdown."""
    rows = [row_of(name) for name in names]
    parts = [
        HEAD.format(
            models=len(library.model_names()),
            command=typed("backbones", []),
            some=typed("backbones", ["named=SigLIP"]),
            ambiguous=listed(ambiguous()),
        )
    ]
    for section, columns in (
        (TAKEN, ("model", "pixels", "image tower", "pool", "width", "tune")),
        (TOKENS, ("model", "pixels", "image tower", "pool", "width", "tokenizer")),
        (TOWERS, ("model", "pixels", "image tower", "pool", "width", "text tower")),
        (REFUSED, ("model", "why")),
    ):
        found = [row.cells for row in rows if row.section == section]
        if found:
            parts += [section.format(count=len(found)), *markdown_table(columns, found), ""]
    return "\n".join(parts)


def row_of(name: str) -> Row:
    config = library.model_config(name) or {}
    try:
        check_towers(config)
    except UserError as error:
        return Row(REFUSED, (name, str(error).rpartition(": ")[0]))
    vision, text = config["vision_cfg"], config["text_cfg"]
    size = str(vision.get("image_size", 224))
    cells = (name, size, *tower_of(vision), str(config["embed_dim"]))
    if tower := text.get("hf_model_name"):
        return Row(TOWERS, (*cells, tower))
    if tokenizer := text.get("hf_tokenizer_name"):
        return Row(TOKENS, (*cells, tokenizer))
    return Row(TAKEN, (*cells, "no" if text.get("no_causal_mask") else "yes"))


def tower_of(vision: dict) -> tuple[str, str]:
    """The image tower of a vision_cfg, and its pool."""
    if timm := vision.get("timm_model_name"):
        return f"timm's {timm}", POOLS.get(vision.get("timm_pool", ""), "its default")
    blocks, patch = vision.get("layers", 12), vision.get("patch_size", 16)
    return f"ViT, {blocks} blocks, patches of {patch}", POOLS[vision.get("pool_type", "tok")]


def ambiguous() -> list[str]:
    """Models whose released weights were trained with pixels normalised in different ways."""
    return [name for name in library.model_names() if len(library.normalisations(name)) > 1]


def listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
