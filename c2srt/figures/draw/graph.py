"""Figure 10, drawn by c2srt/relations/pictures.py."""

from matplotlib.figure import Figure

from c2srt.figures.draw.style import WIDTH
from c2srt.figures.graph import Graphs
from c2srt.relations.pictures import neighbourhood_figure


def draw(found: Graphs) -> Figure:
    return neighbourhood_figure(
        found.graphs, found.column, found.vocabulary, across=2, scale=WIDTH / 10
    )
