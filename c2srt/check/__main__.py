"""`python -m c2srt.check gpu quick|full [out=…]` and `python -m c2srt.check kernels`: the check
where there is no Hydra.
"""

import sys

from c2srt.check.config import from_words
from c2srt.check.run import run
from c2srt.console import show_log
from c2srt.errors import UserError
from c2srt.surroundings import say


def main(words: list[str]) -> int:
    """Returns the exit status: 0, 1 where something is wrong, 2 on bad input."""
    show_log()
    try:
        return run(from_words(words))
    except UserError as error:
        say(f"c2srt check: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
