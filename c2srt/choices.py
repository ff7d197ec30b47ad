"""Config values that are one word of a few."""

from enum import StrEnum
from typing import Self

from c2srt.errors import UserError
from c2srt.shown import shown


class Option(StrEnum):
    """Words of which a config value is one. A member is compared, printed, hashed and written down
    as its plain word, which is how YAML and the records of earlier runs spell it.

    Fields that hold one are annotated as text: OmegaConf would read an enum by its members' names.
    """

    __repr__ = str.__repr__

    @classmethod
    def read(cls, key: str, value: str) -> Self:
        """The member that a word means. Raises UserError, naming the config key, when it is none of
        them.
        """
        check_choice(key, value, tuple(cls))
        return cls(value)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises UserError when a config value is none of its choices."""
    if value not in choices:
        raise UserError(f"{name}='{shown(value)}' is not one of {', '.join(choices)}")
