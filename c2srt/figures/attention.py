"""Figure 7: how much an unseen category listens to its seen neighbours (eq. 20, 22), in the first
layer of the IST.

Shapes: n categories asked about, K neighbours, H heads, D width, d = D / H.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from c2srt.errors import UserError
from c2srt.figures.inputs import Inputs
from c2srt.figures.viewers import OurViewer, subgraph
from c2srt.files import sha256_of_file
from c2srt.hints import Command
from c2srt.model.graph import Graph
from c2srt.model.head import Head
from c2srt.model.isr import softmax_dtype
from c2srt.model.ist import attention_logits, split_heads, with_self_loops
from c2srt.opened import read_json
from c2srt.relations.table import PROVENANCE, TABLE, load_relations
from c2srt.views import centre_pixels

ROWS, TOP, IMAGES = 12, 5, 50


@dataclass(frozen=True)
class Row:
    """An unseen category: its neighbours of greatest weight (at most TOP) with it, best first;
    the weight of itself (None where the model has no self-loops), of all other neighbours (None
    where there are none); the images these are means over.
    """

    name: str
    neighbours: list[str]
    weights: list[float]
    itself: float | None
    others: float | None
    images: int


@dataclass(frozen=True)
class Relations:
    """The rows, the split whose images they are means over, and whether the model's graph is an
    oracle's.
    """

    rows: list[Row]
    split: str
    oracle: bool = False

    def record(self) -> dict:
        over = ["heads", f"images of split {self.split} that contain the category"]
        return {
            "layer": 1,
            "mean_over": over,
            "oracle_graph": self.oracle,
            "rows": [vars(row) for row in self.rows],
        }


def made_from(inputs: Inputs) -> dict:
    """Where an oracle wrote the `llm` graph, that one, too: the figure says whether it is the
    model's.
    """
    folder = oracle_graph(inputs)
    oracle = {"oracle": sha256_of_file(folder / TABLE)} if folder else {}
    return {**inputs.made_from(), **inputs.made_from_ours(), **oracle}


def numbers(inputs: Inputs) -> Relations:
    """Raises UserError if the model has no IST, or a category that is asked for is seen, hears none
    or is in no image.
    """
    ours, vocabulary = inputs.ours, inputs.vocabulary
    if not ours.model.config.ist:
        raise UserError(
            f"{inputs.model_folder} was trained with model.ist=false and has no relation weights:"
            " give another model=…"
        )
    places, labels = inputs.photos.candidates
    rows = []
    for column in chosen_columns(inputs, labels == 1):
        some = places[labels[:, column] == 1][:IMAGES]
        images = torch.stack(
            [centre_pixels(inputs.photos.read(place).image, ours.size) for place in some]
        )
        weights, neighbours = mean_attention(ours, images, column)
        rows.append(row_of(vocabulary.titles, column, weights, neighbours, len(some)))
    return Relations(rows, inputs.config.split, hears_an_oracle(inputs))


def hears_an_oracle(inputs: Inputs) -> bool:
    """Whether the model's graph is the `llm` graph that is there, and that one says of itself that
    an oracle wrote it.
    """
    table = inputs.ours.graph.table.cpu()
    with suppress(UserError):  # of another K: nothing is known of it
        return (folder := oracle_graph(inputs)) is not None and torch.equal(
            load_relations(folder, inputs.vocabulary, table.shape[1]), table
        )
    return False


def oracle_graph(inputs: Inputs) -> Path | None:
    """The folder of the `llm` graph if it is there and an oracle wrote it, by its own word."""
    folder = Path(inputs.config.relations_folder) / "llm"
    with suppress(UserError):  # no such graph, or a damaged one: nothing is known of it
        oracle = read_json(folder / PROVENANCE, Command("relations")).get("oracle")
        return folder if oracle and (folder / TABLE).is_file() else None
    return None


def chosen_columns(inputs: Inputs, present: np.ndarray) -> list[int]:
    """The categories asked for, or of the unseen ones with a neighbour the ROWS present in most
    images; present bool [n, C].
    """
    seen, hears = inputs.vocabulary.seen_count, (inputs.ours.graph.table >= 0).any(1).cpu().numpy()
    count = present.sum(0)
    if inputs.categories is None:
        able = [column for column in range(seen, len(count)) if hears[column] and count[column]]
        if not able:
            raise UserError(
                f"no unseen category with a neighbour is present in the {len(present):,} images"
                " looked at: nothing to draw"
            )
        return sorted(able, key=lambda column: -count[column])[:ROWS]
    for column in inputs.categories:
        faults = {
            "is a seen category": column < seen,
            "has no neighbour in the relation graph": not hears[column],
            f"is present in none of the {len(present):,} images looked at": not count[column],
        }
        if why := next((why for why, holds in faults.items() if holds), None):
            raise UserError(
                f"categories: {inputs.vocabulary.titles[column]!r} {why}: name unseen ones with"
                " neighbours and images"
            )
    return inputs.categories


def mean_attention(ours: OurViewer, images: Tensor, column: int) -> tuple[np.ndarray, list[int]]:
    """α of one category, mean over images uint8 [b, 3, S, S] and heads, and the categories that it
    belongs to.
    """
    table = with_self_loops(ours.graph.table, ours.model.config.self_loops)[column].tolist()
    graph, categories = subgraph(ours.graph, [column], 1)
    with torch.no_grad():
        patches, global_ = ours.model.tower(ours.pixels(images))
        alpha = torch.stack(
            [
                first_attention(ours.model.head, p, g, graph)[0].mean(-1)
                for p, g in zip(patches, global_, strict=True)
            ]
        )
    weights = alpha.double().mean(0).cpu().numpy()
    return weights[np.array(table) >= 0], [neighbour for neighbour in table if neighbour >= 0]


def first_attention(head: Head, patches: Tensor, global_: Tensor, graph: Graph) -> Tensor:
    """α [C, K, H] of the first layer for one image: patches [P, D], global_ [D]. K counts the
    self-loop; absent neighbours: 0.
    """
    from c2srt.model.literal import input_features, local_features  # PyG takes seconds to import

    tensors = {name: parameter.to(patches.dtype) for name, parameter in head.named_parameters()}
    text, table = graph.text.to(patches.dtype), with_self_loops(graph.table, head.config.self_loops)
    image = global_.expand_as(text)
    if head.config.isr:
        image = (local_features(head, patches, text)[0] + image) / 2
    h = input_features(head, tensors, image, text)
    source = split_heads((h @ tensors["source"][0].T)[table.clamp(min=0)], tensors["attention"][0])
    logits = attention_logits(source, h @ tensors["target"][0].T, tensors["attention"][0])
    present = (table >= 0)[..., None]
    logits = logits.masked_fill(~present, torch.finfo(softmax_dtype(logits.dtype)).min)
    return logits.softmax(1) * present


def row_of(
    names: tuple[str, ...], column: int, weights: np.ndarray, neighbours: list[int], images: int
) -> Row:
    """Sorts a category's weights: itself apart, the TOP neighbours, the rest as one."""
    of = dict(zip(neighbours, weights.tolist(), strict=True))
    itself = of.pop(column, None)
    order = sorted(of, key=lambda neighbour: -of[neighbour])
    best, rest = order[:TOP], order[TOP:]
    others = sum(of[neighbour] for neighbour in rest) if rest else None
    return Row(
        names[column],
        [names[neighbour] for neighbour in best],
        [of[neighbour] for neighbour in best],
        itself,
        others,
        images,
    )
