"""`c2srt check kernels`: every kernel compiled for cards that are not here; registers, spilled
bytes, shared memory.
"""

from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import datetime
from importlib.util import find_spec
from itertools import product
from multiprocessing import get_context
from pathlib import Path

from c2srt.check.case import sentence
from c2srt.check.config import REAL, Config, Shape
from c2srt.check.nodes.facts import git_commit
from c2srt.check.record import open_folder
from c2srt.errors import UserError
from c2srt.files import write_json
from c2srt.profiling import DTYPES
from c2srt.surroundings import cores

CAPABILITIES = (80, 86, 90, 100)
"""A100, the RTX 30 series, H100 and H200, B200."""
LEAST_SHARED = 99 * 1024
"""Bytes of shared memory that a program may have on every one of them."""


def run_compiled(config: Config) -> int:
    """Prints the table and writes <out>/kernels.json; 1 if a kernel does not compile or asks for
    too much shared memory.

    Spilled registers are figures here, no fault. Raises UserError without Triton.
    """
    if find_spec("triton") is None:
        raise UserError("Triton is not installed: pip install triton")
    folder = open_folder(Path(config.out))
    rows: list[dict] = []
    print(header(), flush=True)
    with ProcessPoolExecutor(
        cores(),
        get_context("spawn"),
        max_tasks_per_child=1,  # Triton keeps what it compiled for another card
    ) as pool:
        running = {
            pool.submit(compiled_rows, *case): case
            for case in product(CAPABILITIES, REAL.shapes, DTYPES)
        }
        for done in as_completed(running):
            capability, shape, precision = running[done]
            try:
                found = done.result()
            except Exception as error:  # of the compiler
                found = [refused(capability, shape, precision, error)]
            rows += found
            print("\n".join(line(row) for row in found), flush=True)
    rows.sort(key=lambda row: (row["capability"], row["shape"], row["precision"], row["kernel"]))
    write_json(
        folder / "kernels.json",
        {
            "date": datetime.now().isoformat(timespec="seconds"),
            "commit": config.commit or git_commit(),
            "rows": rows,
        },
    )
    faults = [row["wrong"] for row in rows if "wrong" in row]
    print(
        "\n".join(
            [f"written to {folder / 'kernels.json'}", *(f"WRONG: {fault}" for fault in faults)]
        )
    )
    return 1 if faults else 0


def compiled_rows(capability: int, shape: Shape, precision: str) -> list[dict]:
    """In a process of its own: the rows of one card, ViT and precision."""
    from c2srt.model.kernels.compiled import compile_kernels

    rows = []
    for one in compile_kernels(
        capability, shape.patches, shape.width, shape.heads, DTYPES[precision]
    ):
        row = {
            "capability": capability,
            "shape": shape.name,
            "precision": precision,
            "kernel": one.kernel,
            "registers": one.registers,
            "spilled": one.spilled,
            "shared": one.shared,
            "warps": one.warps,
        }
        if one.shared > LEAST_SHARED:
            row["wrong"] = (
                f"{one.kernel} for sm_{capability}, {shape.name}, {precision} asks for"
                f" {one.shared:,} bytes of shared memory, more than {LEAST_SHARED:,}"
            )
        rows.append(row)
    return rows


def refused(capability: int, shape: Shape, precision: str, error: Exception) -> dict:
    """The row of what the compiler refused."""
    return {
        "capability": capability,
        "shape": shape.name,
        "precision": precision,
        "kernel": "?",
        "wrong": (
            f"sm_{capability}, {shape.name}, {precision} does not compile: {sentence(error)}"
        ),
    }


def header() -> str:
    return (
        f"{'card':<7} {'ViT':<9} {'':<5} {'kernel':<18} {'registers':>9} {'spilled B':>9}"
        f" {'shared B':>9} {'warps':>5}"
    )


def line(row: dict) -> str:
    start = f"sm_{row['capability']:<4} {row['shape']:<9} {row['precision']:<5} {row['kernel']:<18}"
    figures = (
        "does not compile"
        if "registers" not in row
        else (f"{row['registers']:>9,} {row['spilled']:>9,} {row['shared']:>9,} {row['warps']:>5}")
    )
    return f"{start} {figures}"
