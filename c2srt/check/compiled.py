"""`c2srt check kernels`: every kernel compiled for cards that are not here; registers, stack,
shared memory. `quick` takes a covering sample of open_clip's ViTs, `full` all of them.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import datetime
from importlib.util import find_spec
from itertools import product
from multiprocessing import get_context
from pathlib import Path

from c2srt.check.case import sentence
from c2srt.check.compiled_table import table
from c2srt.check.config import FULL, REAL, Config, Shape
from c2srt.check.nodes.facts import git_commit
from c2srt.check.record import open_folder
from c2srt.errors import UserError
from c2srt.files import write_json, write_text
from c2srt.model.kernels.shapes import LEAST_SHARED
from c2srt.profiling import DTYPES
from c2srt.surroundings import cores

CAPABILITIES = (80, 86, 90, 100)
"""A100, the RTX 30 series, H100 and H200, B200."""
HEADS = 8
SAMPLE = (
    Shape("ViT-S/32", "ViT-S-32-alt", 49, 256, HEADS),
    *REAL.every,
    Shape("ViTamin-L", "ViTamin-L2-336", 441, 1024, HEADS),
    Shape("SO400M/14", "ViT-SO400M-14-SigLIP-384", 729, 1152, HEADS),
)
"""Every number of patches, and of lanes of a head, that the kernels round up to."""


def run_compiled(config: Config) -> int:
    """Prints the rows, writes <out>/kernels.json and <out>/kernels.md; 1 if a kernel does not
    compile, spills registers or asks for too much shared memory. Raises UserError without Triton.
    """
    if find_spec("triton") is None:
        raise UserError("Triton is not installed: pip install triton")
    folder = open_folder(Path(config.out))
    shapes = every_shape() if config.length == FULL else list(SAMPLE)
    print(header(), flush=True)
    rows = sorted(compile_all(shapes), key=order)
    write_json(
        folder / "kernels.json",
        {
            "date": datetime.now().isoformat(timespec="seconds"),
            "commit": config.commit or git_commit(),
            "rows": rows,
        },
    )
    write_text(folder / "kernels.md", table(rows))
    faults = [row["wrong"] for row in rows if "wrong" in row]
    print(
        "\n".join(
            [f"written to {folder / 'kernels.json'}", *(f"WRONG: {fault}" for fault in faults)]
        )
    )
    return 1 if faults else 0


def every_shape() -> list[Shape]:
    """The ViTs of open_clip's configs, one of each shape. Raises UserError without open_clip."""
    if find_spec("open_clip") is None:
        raise UserError("length=full needs open_clip: pip install open_clip_torch")
    from c2srt.backbone.shapes import head_shapes

    return [
        Shape(names[0], names[0], patches, width, HEADS)
        for (patches, width), names in head_shapes().items()
    ]


def compile_all(shapes: list[Shape]) -> Iterator[dict]:
    """The rows of every card, precision and shape, as they are found."""
    with ProcessPoolExecutor(
        cores(),
        get_context("spawn"),
        max_tasks_per_child=1,  # Triton keeps what it compiled for another card
    ) as pool:
        running = [
            pool.submit(compiled_rows, capability, precision, shapes)
            for capability, precision in product(CAPABILITIES, DTYPES)
        ]
        for done in as_completed(running):
            found = done.result()
            print("\n".join(line(row) for row in found), flush=True)
            yield from found


def compiled_rows(capability: int, precision: str, shapes: list[Shape]) -> list[dict]:
    """In a process of its own: the rows of one card and precision. Only the ISR's kernel
    knows of patches; the others are compiled once a width.
    """
    from c2srt.model.kernels.compiled import compile_attention, compile_isr, compile_scores

    rows, widths = [], set()
    for shape in shapes:
        of_width = [] if shape.width in widths else [compile_attention, compile_scores]
        widths.add(shape.width)
        for call in (compile_isr, *of_width):
            start = {
                "capability": capability,
                "shape": shape.name,
                "patches": shape.patches,
                "width": shape.width,
                "head width": shape.head_width,
                "precision": precision,
            }
            try:
                found = call(capability, shape.patches, shape.width, shape.heads, DTYPES[precision])
            except Exception as error:  # of the compiler
                rows.append(refused(start, error))
                continue
            rows += [judged(start | vars(one)) for one in found]
    return rows


def judged(row: dict) -> dict:
    """The row of a kernel without its text, and what is wrong with it."""
    row = {name: value for name, value in row.items() if name != "ptx"}
    where = f"{row['kernel']} for sm_{row['capability']}, {row['shape']}, {row['precision']}"
    faults = []
    if row["shared"] > LEAST_SHARED:
        faults.append(
            f"asks for {row['shared']:,} bytes of shared memory, more than {LEAST_SHARED:,}"
        )
    if row["stack"] or row["spilled"]:
        faults.append(f"keeps {row['stack']:,} bytes on the stack, spilling {row['spilled']:,}")
    return {**row, "wrong": f"{where} {' and '.join(faults)}"} if faults else row


def refused(start: dict, error: Exception) -> dict:
    """The row of what the compiler refused."""
    where = f"sm_{start['capability']}, {start['shape']}, {start['precision']}"
    return {**start, "kernel": "?", "wrong": f"{where} does not compile: {sentence(error)}"}


def order(row: dict) -> tuple:
    return tuple(row[name] for name in ("capability", "patches", "width", "precision", "kernel"))


def header() -> str:
    return (
        f"{'card':<7} {'P':>5} {'D':>5} {'':<5} {'kernel':<18} {'registers':>9} {'stack B':>7}"
        f" {'shared B':>9} {'warps':>5}"
    )


def line(row: dict) -> str:
    start = (
        f"sm_{row['capability']:<4} {row['patches']:>5,} {row['width']:>5,}"
        f" {row['precision']:<5} {row['kernel']:<18}"
    )
    figures = (
        "does not compile"
        if "registers" not in row
        else (f"{row['registers']:>9,} {row['stack']:>7,} {row['shared']:>9,} {row['warps']:>5}")
    )
    return f"{start} {figures}"
