"""Runs a function and writes down what it took, itself and all processes that it started, those
that they left behind, too. Needs nothing but Python, so that any environment's can run it:

    python -c '<this file>' img2dataset:download '{"url_list": …}' <file written>
"""

import ctypes
import importlib
import json
import os
import resource
import sys
import time

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: who has lost its parent becomes this process's child


def cpu(whose: int) -> float:
    used = resource.getrusage(whose)
    return used.ru_utime + used.ru_stime


def call(function: str, arguments: str, out: str) -> None:
    """Writes its seconds, and the CPU's until then."""
    module, _, name = function.partition(":")
    called = getattr(importlib.import_module(module), name)
    before, started = cpu(resource.RUSAGE_SELF), time.perf_counter()
    called(**json.loads(arguments))
    with open(out, "w", encoding="utf-8") as file:
        json.dump({"seconds": time.perf_counter() - started, "before": before}, file)


def main(function: str, arguments: str, out: str) -> int:
    """Calls in a process of its own, waits for the last of its descendants, and counts. Returns
    the exit status of that process.
    """
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    first, statuses = os.fork(), {}
    if not first:
        call(function, arguments, out)
        return 0
    while True:
        try:
            child, status = os.wait()
        except ChildProcessError:
            break
        statuses[child] = os.waitstatus_to_exitcode(status)
    if statuses[first] == 0:
        with open(out, encoding="utf-8") as file:
            found = json.load(file)
        found["cpu"] = cpu(resource.RUSAGE_CHILDREN) - found.pop("before")
        found["peak"] = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        with open(out, "w", encoding="utf-8") as file:
            json.dump(found, file)
    return statuses[first]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
