"""`c2srt figures`: draws what is missing or out of date.

<out>/<figure>.png (300 dpi), <figure>.pdf    a figure
<out>/isr-patches-pieces-<key>/               what an interrupted run has counted (patch_counts.py)
<out>/<figure>.json                           {"made_from": {…}, "numbers": {…}, "files": {…}}: its
                                              sources, the numbers that it shows, and the record of
                                              the two pictures (c2srt/artefact.py)
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from c2srt.artefact import is_current, remove_unfinished, tidy, vouch, withdraw, writing
from c2srt.errors import UserError
from c2srt.figures.config import Config
from c2srt.figures.files import pictures_of, pieces_of, record_of
from c2srt.figures.registry import FIGURES, Figure
from c2srt.files import hash_of
from c2srt.hints import Command

if TYPE_CHECKING:  # torch, which --help does not need
    from c2srt.figures.inputs import Inputs

log = logging.getLogger(__name__)


def run(config: Config) -> None:
    """Draws the figures. Raises UserError on bad input, and when one that was named lacks its
    inputs.
    """
    from c2srt.figures.inputs import Inputs

    inputs, out, todo = Inputs(config), Path(config.out), []
    for figure in [figure for name in config.figures or FIGURES for figure in FIGURES[name]]:
        if (made_from := sources_of(figure, inputs)) is not None:
            todo.append((figure, made_from))
    if not todo:
        raise UserError(
            f"no figure can be drawn from {config.work}: see the lines above, or start with"
            f" `{Command('demo')}`"
        )
    if inputs.lacks_mkt() and (two := [figure.stem for figure, _ in todo if figure.compares]):
        log.info(
            f"{', '.join(two)}: without MKT, which"
            f" `{Command('train', 'model=mkt', out=inputs.work / 'mkt/seed-0')}` trains"
        )
    current = [figure.stem for figure, made_from in todo if is_drawn(out, figure.stem, made_from)]
    for stem in current:
        log.info(f"{out / stem}.png, .pdf are up to date")
    tidy(out, *map(pieces_of, current))
    if left := [(figure, made_from) for figure, made_from in todo if figure.stem not in current]:
        with writing(out):
            for figure, made_from in left:
                write(out, figure, made_from, inputs)


def sources_of(figure: Figure, inputs: "Inputs") -> dict | None:
    """What the figure is made from; None, said aloud, where that is missing and `figures` was left
    at its default.
    """
    from c2srt.figures.inputs import Missing

    try:
        return figure.made_from(inputs)
    except Missing as missing:
        if inputs.config.figures is not None:
            raise
        log.info(f"{figure.stem}: left out, {missing}")
        return None


def is_drawn(out: Path, stem: str, made_from: dict) -> bool:
    return is_current(out / record_of(stem), keyed(made_from), pictures_of(stem))


def keyed(made_from: dict) -> dict:
    """An identity, with its hash beside what it consists of."""
    return {**made_from, "key": hash_of(made_from)}


def write(out: Path, figure: Figure, made_from: dict, inputs: "Inputs") -> None:
    """Computes, draws and writes one figure; an old record goes first."""
    from c2srt.figures.draw.style import save, styled

    stem, numbers = figure.stem, figure.numbers(inputs)
    record = out / record_of(stem)
    withdraw(record)
    with styled():
        save(figure.draw(numbers), out, stem)
    vouch(
        record,
        {"made_from": keyed(made_from), "numbers": numbers.record()},
        pictures_of(stem),
    )
    remove_unfinished(out, pieces_of(stem))
    log.info(f"{out / stem}.png, .pdf")
