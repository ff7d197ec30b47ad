"""The audit as one HTML file: no server, no script, nothing from elsewhere, and narrow enough for a
telephone. Whatever comes from the data is shown letter by letter.
"""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from c2srt.audit.candidates import Place
from c2srt.audit.control import Kind
from c2srt.audit.duplicates import Judged, reader_of
from c2srt.files import write_text
from c2srt.shown import printable
from c2srt.views import decode

HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Audit of a data set</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 1em auto; max-width: 60em; padding: 0 1em;
  color: #222; overflow-wrap: anywhere }
table { border-collapse: collapse } td, th { padding: .15em .7em .15em 0; text-align: left }
.wide { overflow-x: auto }
.pair { display: flex; flex-wrap: wrap; gap: .7em; margin: .8em 0; padding: .5em 0;
  border-top: 1px solid #ddd }
.pair p { margin: 0; flex: 1 1 14em } figure { margin: 0; width: 8.5em }
img { max-width: 100% } figcaption, small { color: #666; font-size: 12px }
b { color: #b02a1a }
</style>
<h1>Audit of a data set</h1>
"""
SIDE = 128  # pixels of a thumbnail's longer side
PAIRS = 200
"""On the page; duplicates.csv has all."""


def text(value: object) -> str:
    """Of the data, as HTML."""
    return escape(printable(value))


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    def line(cells: Sequence[object], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{text(cell)}</{kind}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="wide"><table>{line(head, "th")}{body}</table></div>\n'


def thresholds(
    kinds: list[Kind], name: str, levels: Iterable[float], used: float, counted: dict[float, int]
) -> str:
    """What share of each kind of pairs lies at a threshold or above, and how many pairs of the data
    set do.
    """
    rows = [
        [
            f"{level:g}" + (" (used)" if level == used else ""),
            *(
                f"{sum(value >= level for value in getattr(kind, name))} of"
                f" {len(getattr(kind, name))}"
                for kind in kinds
            ),
            f"{counted[level]:,}",
        ]
        for level in sorted({*levels, used})
    ]
    return table(["at least", *(kind.name for kind in kinds), "pairs of this data set"], rows)


def pair(folder: Path, judged: Judged, names: dict[str, str]) -> str:
    """Two pictures beside each other, and the labels in which they contradict each other."""
    found = judged.candidate
    said = [f"cosine {found.cosine:.3f}, agreement {judged.agreement:.3f}"]
    for mids, one, other in (
        (judged.present_earlier, found.earlier, found.later),
        (judged.present_later, found.later, found.earlier),
    ):
        said += [
            f"<b>{text(names.get(mid, mid))}</b>: present in {text(one.split)}, absent in"
            f" {text(other.split)}"
            for mid in mids
        ]
    pictures = figure(folder, found.earlier, judged.earlier) + figure(
        folder, found.later, judged.later
    )
    return f'<div class="pair">{pictures}<p>{"<br>".join(said)}</p></div>\n'


def figure(folder: Path, place: Place, image_id: str) -> str:
    image = Image.fromarray(decode(reader_of(folder, place.shard).jpeg(place.sample)))
    image.thumbnail((SIDE, SIDE))
    jpeg = simplejpeg.encode_jpeg(np.array(image), quality=75)
    data = base64.b64encode(jpeg).decode()
    return (
        f'<figure><img alt="" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{text(place.split)}: {text(image_id)}</figcaption></figure>"
    )


def pairs(folder: Path, found: list[Judged], names: dict[str, str]) -> str:
    """The first PAIRS, those with a conflict first."""
    first = sorted(found, key=lambda each: -each.conflicts)[:PAIRS]
    more = (
        f"<p>{len(found) - PAIRS:,} more are in duplicates.csv.</p>" if len(found) > PAIRS else ""
    )
    return "".join(pair(folder, each, names) for each in first) + more


def write_page(path: Path, lines: list[str], sections: list[tuple[str, str]]) -> None:
    """What was found, in sentences, then sections (title, HTML)."""
    said = "".join(f"<li>{text(line)}</li>" for line in lines)
    body = "".join(f"<h2>{text(title)}</h2>\n{content}" for title, content in sections)
    write_text(path, f"{HEAD}<ul>{said}</ul>\n{body}</html>\n")
