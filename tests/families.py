"""One of open_clip's configs for each family of backbones, made small: few blocks and narrow ones,
of the same classes, on the same way through open_clip.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest
import timm

from c2srt.backbone import library
from c2srt.train.config import Config
from tests.hub_files import NEEDED, hub_tokenizer
from tests.train_case import train_rank

create_model = timm.create_model


@dataclass(frozen=True)
class Family:
    """`config` is open_clip's; `trunk` what timm builds differently, `text` and `vision` what
    open_clip does; `hub` the type of a text tower of the Hugging Face hub.
    """

    config: str
    trunk: dict = field(default_factory=dict)
    text: dict = field(default_factory=dict)
    vision: dict = field(default_factory=dict)
    hub: str = ""

    def content(self, work: Path | None = None) -> dict:
        """The model config. Below `work` the files of the hub that it needs are made, the small
        ones of tests in place of those that it names; without `work` it needs none.
        """
        content = copy.deepcopy(library.model_config(self.config))
        text = content["text_cfg"]
        content["vision_cfg"] |= self.vision
        if not self.hub:
            text |= {"width": 32, "heads": 2, "layers": 2} | self.text
        if self.hub and work:
            text["hf_model_name"] = str(hub_model(work / "model", self.hub))
        if "hf_tokenizer_name" in text and work:
            text["hf_tokenizer_name"] = str(hub_tokenizer(work / "words"))
        if "hf_tokenizer_name" in text and not self.hub:
            text["vocab_size"] = 64
        if content["vision_cfg"].get("timm_proj") == "none":
            content["embed_dim"] = self.trunk["embed_dim"]
        return content

    @property
    def needs_hub(self) -> bool:
        """Whether `content` makes files of the hub."""
        text = library.model_config(self.config)["text_cfg"]
        return bool(self.hub) or "hf_tokenizer_name" in text

    @contextmanager
    def shrunk(self) -> Iterator[None]:
        """timm builds the small one."""

        def create(*arguments: object, **settings: object):
            return create_model(*arguments, **settings | self.trunk)

        with patch.object(timm, "create_model", create):
            yield


NARROW = {"embed_dim": 64, "depth": 3, "num_heads": 4}
FAMILIES = {
    "SigLIP": Family("ViT-B-16-SigLIP", NARROW),
    "SigLIP 2, so400m": Family("ViT-SO400M-14-SigLIP2", NARROW),
    "SigLIP, i18n": Family("ViT-SO400M-16-SigLIP-i18n-256", NARROW, {"width": 64}),
    "EVA": Family("EVA01-g-14", NARROW),
    "EVA 02": Family("EVA02-B-16", NARROW),
    "EVA 02 enormous": Family("EVA02-E-14", NARROW),
    "Perception Encoder": Family("PE-Core-B-16", NARROW | {"attn_pool_num_heads": 4}),
    "MobileCLIP": Family("MobileCLIP-B", {"depth": 3}),
    "MobileCLIP 2": Family("MobileCLIP2-L-14", NARROW),
    "ViTamin": Family("ViTamin-S", {"depth": 3}),
    "mean of patches": Family("vit_medium_patch16_gap_256", NARROW),
    "relative positions": Family("vit_relpos_medium_patch16_cls_224", NARROW | {"embed_dim": 256}),
}
"""timm's."""
SMALL = {"layers": 3, "width": 64, "head_width": 16}
NATIVE = {
    "CLIP": Family("ViT-B-32", vision=SMALL),
    "CLIPA": Family("ViT-L-14-CLIPA", vision=SMALL),
    "worldwide, mT5's words": Family("ViT-L-14-worldwide", vision=SMALL),
    "worldwide, XLM-V's words": Family("ViT-H-14-worldwide", text={"eos_id": 1}, vision=SMALL),
}
"""With open_clip's own ViT."""
HUB = {
    "hub: RoBERTa": Family("roberta-ViT-B-32", vision=SMALL, hub="roberta"),
    "hub: XLM-RoBERTa": Family("xlm-roberta-base-ViT-B-32", vision=SMALL, hub="xlm-roberta"),
    "hub: mT5": Family("mt5-base-ViT-B-32", vision=SMALL, hub="mt5"),
    "hub: NLLB": Family("nllb-clip-base", vision=SMALL, hub="m2m_100"),
    "hub: NLLB and SigLIP": Family("nllb-clip-base-siglip", NARROW, hub="m2m_100"),
}
"""With a text tower of the Hugging Face hub."""
ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = {"vocab_size": 64, "max_position_embeddings": 96, "pad_token_id": 0}
SIZES = {
    "bert": ENCODER | WORDS | {"intermediate_size": 64},
    "roberta": ENCODER | WORDS | {"intermediate_size": 64},
    "xlm-roberta": ENCODER | WORDS | {"intermediate_size": 64},
    "mt5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, **WORDS},
    "m2m_100": {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, **WORDS},
}


def named(families: dict[str, Family]) -> list:
    """Their names as a test's parameters."""
    return [
        pytest.param(name, marks=pytest.mark.hub) if family.needs_hub else name
        for name, family in families.items()
    ]


def hub_model(folder: Path, kind: str) -> Path:
    """The config of a small text tower, as the hub has it."""
    transformers = pytest.importorskip("transformers", reason=NEEDED)
    transformers.AutoConfig.for_model(kind, **SIZES[kind]).save_pretrained(folder)
    return folder


def train_shrunk(rank: int, family: Family, config: Config) -> str:
    with family.shrunk():
        return train_rank(rank, config)
