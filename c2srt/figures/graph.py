"""Figure 10: the relation graphs of one category, kinds side by side (numbers and drawing as in
`c2srt relations report`).
"""

from dataclasses import dataclass
from pathlib import Path

from c2srt.artefact import hash_of_record
from c2srt.figures.inputs import Inputs, Missing
from c2srt.files import sha256_of_file
from c2srt.hints import Command
from c2srt.relations.compare import Graph
from c2srt.relations.config import ReportConfig
from c2srt.relations.kinds import KINDS
from c2srt.relations.neighbours import ABSENT
from c2srt.relations.report import greatest_hub, load_graphs
from c2srt.relations.table import EDGES, PROVENANCE, TABLE
from c2srt.vocabulary import Vocabulary

HASHED = {PROVENANCE: hash_of_record, TABLE: sha256_of_file, EDGES: sha256_of_file}


@dataclass(frozen=True)
class Graphs:
    """The kinds' graphs and the category (a column) whose neighbourhood is drawn."""

    graphs: list[Graph]
    column: int
    vocabulary: Vocabulary

    def record(self) -> dict:
        names = self.vocabulary.titles
        neighbours = {
            graph.kind: [
                names[column] for column in graph.table[self.column].tolist() if column != ABSENT
            ]
            for graph in self.graphs
        }
        return {
            "category": names[self.column],
            "mid": self.vocabulary.mids[self.column],
            "neighbours": neighbours,
        }


def kinds_of(inputs: Inputs) -> list[str]:
    """The kinds that are there and have edges. Raises Missing without any."""
    folder = Path(inputs.config.relations_folder)
    found = [kind for kind in KINDS if kind != "none" and (folder / kind / PROVENANCE).is_file()]
    if not found:
        raise Missing(
            f"{folder} has no relation graph: make some with `{Command('relations', graph='llm')}`,"
            " graph=similarity, …"
        )
    return found


def made_from(inputs: Inputs) -> dict:
    """All files of the graphs are hashed, those that are there; `load_graphs` refuses damaged
    ones.
    """
    folder = Path(inputs.config.relations_folder)
    files = [
        (folder / kind / name, hashed)
        for kind in kinds_of(inputs)
        for name, hashed in HASHED.items()
    ]
    return {
        "vocabulary": inputs.vocabulary.hash,
        "categories": inputs.categories,
        "graphs": {
            str(path.relative_to(folder)): hashed(path) if path.is_file() else None
            for path, hashed in files
        },
    }


def numbers(inputs: Inputs) -> Graphs:
    """The first of `categories`, or the one that most listen to."""
    graphs = load_graphs(
        ReportConfig(graphs=kinds_of(inputs), folder=inputs.config.relations_folder),
        inputs.vocabulary,
    )
    return Graphs(
        graphs,
        inputs.categories[0] if inputs.categories else greatest_hub(graphs[0]),
        inputs.vocabulary,
    )
