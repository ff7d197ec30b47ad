"""The jobs of an experiment, for the verbs that run others: `tables` and `demo`.

The command line hands them over (`jobs` in c2srt/command.py): what runs an experiment neither knows
where a job's code lies, nor how overrides become its configuration.
"""

from collections.abc import Callable
from dataclasses import dataclass

Job = Callable[[list[str]], int]
"""Given overrides as a person types them, runs in this process and returns the exit status. Raises
UserError.
"""


@dataclass(frozen=True)
class Jobs:
    """A job for each verb of an experiment, called like it."""

    shard: Job
    text: Job
    relations: Job
    teacher: Job
    train: Job
    tune: Job
    messages: Job
    evaluate: Job

    def named(self, verb: str) -> Job:
        return getattr(self, verb)
