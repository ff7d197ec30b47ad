"""What the kernels ask of the process that they run in."""

import os


def interpreted() -> bool:
    """Whether Triton's kernels run on the CPU, in its interpreter. The variable must be set before
    Triton is first imported.
    """
    return os.environ.get("TRITON_INTERPRET") == "1"
