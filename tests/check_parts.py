"""Parts of a check that misbehave, for test_check.py: they run in the check's own process, which
imports them from here.
"""

import os
import signal
import time

import torch


def good(case):
    yield {"what": "sum", "of ones": float(torch.ones(3, device=case.device).sum())}


def hangs(case):
    yield {"what": "before it hangs", "figure": 1}
    time.sleep(3600)


def dies(case):
    yield {"what": "before it dies", "figure": 1}
    os.kill(os.getpid(), signal.SIGKILL)


def runs_out_of_memory(case):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSecond line.")
    yield


def fails_once(case):
    """Fails until a file lies beside the record."""
    if not (case.out / "mended").exists():
        raise ValueError("not yet")
    yield {"what": "mended", "figure": 2}


def wrong(case):
    yield {"what": "kernel", "wrong": "assignment, ViT-B/16, bf16: A is off"}
