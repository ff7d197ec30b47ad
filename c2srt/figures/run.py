"""`c2srt figures`: draws what is missing or out of date.

<out>/<figure>.png (300 dpi), <figure>.pdf    a figure
<out>/isr-patches-pieces-<key>/               what an interrupted run has counted (patch_counts.py)
<out>/<figure>.json                           {"made_from": {…}, "numbers": {…}, "files": {…}}: its
                                              sources, the numbers that it shows, and the record of
                                              the two pictures (c2srt/artefact.py)
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from c2srt.artefact import remove_unfinished, tidy, vouch, vouched, withdraw, writing
from c2srt.errors import UserError
from c2srt.figures.config import FIGURES, Config
from c2srt.files import hash_of
from c2srt.hints import Command

WITH_MKT = ("cam", "predictions")
"""Those that compare CLIP, MKT and ours; without an MKT the other two."""
SUFFIXES = (".png", ".pdf")


@dataclass(frozen=True)
class Part:
    """One file's three steps: what it is made from (raises Missing), its numbers, their picture."""

    made_from: Callable[[Any], dict]
    numbers: Callable[[Any], Any]
    draw: Callable[[Any], Any]


def part_of(stem: str) -> Part:
    """Each module is imported when its figure is drawn: PyG and Grad-CAM take seconds."""
    name, _, rest = stem.partition("-")
    module = {"isr-patches": "patch_counts", "isr-ap": "ap_change", "relations": "attention"}.get(
        stem, name
    )
    numbers, drawing = (
        import_module(f"c2srt.figures.{module}"),
        import_module(f"c2srt.figures.draw.{module}"),
    )
    if name == "curves":
        return Part(
            lambda inputs: numbers.made_from(inputs, rest),
            lambda inputs: numbers.numbers(inputs, rest),
            drawing.draw,
        )
    return Part(numbers.made_from, numbers.numbers, drawing.draw)


def run(config: Config) -> None:
    """Draws the figures. Raises UserError on bad input, and when one that was named lacks its
    inputs.
    """
    from c2srt.figures.inputs import Inputs

    inputs, out, todo = Inputs(config), Path(config.out), []
    for stem in [stem for name in config.figures or FIGURES for stem in FIGURES[name]]:
        if (found := sources_of(stem, inputs)) is not None:
            todo.append((stem, *found))
    if not todo:
        raise UserError(
            f"no figure can be drawn from {config.work}: see the lines above, or start with"
            f" `{Command('demo')}`"
        )
    if inputs.lacks_mkt() and (two := [stem for stem, _, _ in todo if stem in WITH_MKT]):
        print(
            f"{', '.join(two)}: without MKT, which"
            f" `{Command('train', 'model=mkt', out=inputs.work / 'mkt/seed-0')}` trains"
        )
    left = [
        (stem, part, made_from)
        for stem, part, made_from in todo
        if not is_current(out, stem, made_from)
    ]
    current = [stem for stem, _, _ in todo if stem not in {some for some, _, _ in left}]
    for stem in current:
        print(f"{out / stem}.png, .pdf are up to date")
    tidy(out, *map(pieces_of, current))
    if left:
        with writing(out):
            for stem, part, made_from in left:
                write(out, stem, part, made_from, inputs)


def pieces_of(stem: str) -> str:
    """The name of what an interrupted figure keeps (c2srt.artefact.unfinished)."""
    return f"{stem}-pieces"


def sources_of(stem: str, inputs: Any) -> tuple[Part, dict] | None:
    """The part and what it is made from; None, said aloud, where that is missing and `figures` was
    left at its default.
    """
    from c2srt.figures.inputs import Missing

    part = part_of(stem)
    try:
        return part, part.made_from(inputs)
    except Missing as missing:
        if inputs.config.figures is not None:
            raise
        print(f"{stem}: left out, {missing}")


def is_current(out: Path, stem: str, made_from: dict) -> bool:
    """Whether the figure's files are there and its record has this identity."""
    content = vouched(out / f"{stem}.json")
    return (
        content is not None
        and isinstance(content.get("made_from"), dict)
        and content["made_from"].get("key") == hash_of(made_from)
    )


def write(out: Path, stem: str, part: Part, made_from: dict, inputs: Any) -> None:
    """Computes, draws and writes one figure; an old record goes first."""
    from c2srt.figures.draw.style import save, styled

    numbers = part.numbers(inputs)
    record = out / f"{stem}.json"
    withdraw(record)
    with styled():
        save(part.draw(numbers), out, stem)
    vouch(
        record,
        {"made_from": {**made_from, "key": hash_of(made_from)}, "numbers": numbers.record()},
        [f"{stem}{suffix}" for suffix in SUFFIXES],
    )
    remove_unfinished(out, pieces_of(stem))
    print(f"{out / stem}.png, .pdf")
