"""The verbs by their names, as `c2srt` has them: what c2srt/command.py and c2srt/compose.py do with
one.
"""

from typing import Any

from omegaconf import DictConfig

from c2srt import command, compose
from c2srt.cluster.cli import VERBS
from c2srt.jobs import Jobs


def config_class(verb: str) -> type:
    return VERBS[verb].keys()


def compose_verb(verb: str, overrides: list[str]) -> DictConfig:
    return compose.compose_verb(VERBS[verb], overrides)


def plain_defaults(verb: str) -> dict[str, Any]:
    return compose.plain_defaults(VERBS[verb])


def run_verb(verb: str, arguments: list[str]) -> int:
    return command.run_verb(VERBS, verb, arguments)


def joined(arguments: list[str]) -> list[str]:
    return command.joined(VERBS, arguments)


def jobs() -> Jobs:
    return command.jobs(VERBS)
