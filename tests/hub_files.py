"""Small files as the Hugging Face hub has them, made on the spot: nothing is downloaded."""

from pathlib import Path

import pytest

NEEDED = "reads files of the Hugging Face hub: needs c2srt[hub]"
WORDS = ["<pad>", "<eos>", "<unk>", "a", "photo", "of", "thing", "zebra"] + [
    str(n) for n in range(13)
]


def hub_tokenizer(folder: Path) -> Path:
    """A tokenizer of a few words in the hub's format, with the end behind each text."""
    transformers = pytest.importorskip("transformers", reason=NEEDED)
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    rules = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    rules.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    marks = {"pad_token": "<pad>", "eos_token": "<eos>", "sep_token": "<eos>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=rules, **marks).save_pretrained(folder)
    return folder
