"""What `c2srt backbones` can be told."""

from dataclasses import dataclass

from c2srt.keys import key


@dataclass
class Config:
    """Keys of `c2srt backbones`."""

    named: str = key("", "only models with this in their name; the default: all")
