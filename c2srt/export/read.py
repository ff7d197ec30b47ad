"""Reading the exported model; the format is in files.py."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from c2srt.backbone import library
from c2srt.backbone.clip import Clip, build_model, frozen_clip
from c2srt.backbone.ensemble import embed
from c2srt.backbone.tokens import Tokenizer, tokenizer_of
from c2srt.bounds import Within
from c2srt.errors import UserError
from c2srt.export.files import (
    BELONGS,
    CALIBRATION,
    CONFIG_FILE,
    FORMAT,
    MADE_BY,
    MESSAGES,
    MODEL_FILE,
    TOKENIZER,
    belonging,
)
from c2srt.model.build import build_student
from c2srt.model.calibration import Calibration
from c2srt.model.config import KindConfig, LossConfig, ModelConfig
from c2srt.model.context import Context
from c2srt.model.graph import Graph
from c2srt.model.messages import Messages
from c2srt.model.network import Network
from c2srt.opened import (
    opening,
    read_json,
    read_tensor,
    read_tensors,
    tensor_shapes,
    tensors_note,
    wrong,
)
from c2srt.relations.baselines import similar_neighbours
from c2srt.shown import shown
from c2srt.vocabulary import Vocabulary

OWN = ("head.", MESSAGES, CALIBRATION)
"""What begins the names of tensors that no CLIP has."""
Three = Annotated[list[Annotated[float, Within(ge=-1e6, le=1e6)]], Len(3, 3)]


@dataclass(frozen=True)
class ClipFile:
    """What config.json must say of the CLIP."""

    config: dict
    mean: Three
    std: Three
    hash: str
    tokenizer: str = ""


@dataclass(frozen=True)
class ListedFile:
    """What config.json must say of the vocabulary."""

    mids: list[str]
    names: list[str]
    seen_count: int


@dataclass(frozen=True)
class ExportFile:
    """What config.json must have."""

    model: ModelConfig
    clip: ClipFile
    vocabulary: ListedFile
    templates: Annotated[list[str], Len(1, 10_000)]
    made_from: dict


@dataclass
class Exported:
    """A loaded model with everything that predicting needs."""

    model: Network
    clip: Clip
    vocabulary: Vocabulary
    templates: list[str]
    graph: Graph
    made_from: dict = field(default_factory=dict)
    context: Context | None = None
    messages: Messages | None = None
    calibration: Calibration | None = None

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """The model alone also takes another type."""
        self.model.to(device, dtype)
        if self.messages is not None:
            self.messages = self.messages.to(device)

    def scores(self, images: Tensor, graph: Graph | None = None) -> tuple[Tensor, Tensor | None]:
        """As `Student.scores`; with messages the logits that they make of them, for a graph that
        begins with the vocabulary.
        """
        scores, counts = self.model.scores(images, graph)
        return scores if self.messages is None else self.messages(scores), counts

    def refuse_calibrated(self, checkpoint: str) -> None:
        """Raises UserError where what changes the scores would leave their calibration behind."""
        if self.calibration is not None:
            raise UserError(
                f"checkpoint={checkpoint} has a calibration, which was fitted on its scores: give"
                " the model that it was made of, and calibrate the new one"
            )

    def graph_for(
        self, labels: list[str], find: Callable[[list[str]], tuple[Tensor, Tensor]] | None = None
    ) -> tuple[Graph, Tensor]:
        """A graph that scores any words, and the columns [n] of `labels` in it; no training is
        needed.

        A label that is a vocabulary name (case aside; the first of homonyms, or the one whose MID
        it gives, as in `Vocabulary.labels`) keeps its text feature and neighbours. For the others
        `find` (default: `by_similarity`) gives text features [n, D] and neighbours [n, K].
        """
        known: dict[str, int] = {}
        for names in (self.vocabulary.names, self.vocabulary.titles):
            for column, name in enumerate(names):
                known.setdefault(name.casefold(), column)
        new = list(dict.fromkeys(label for label in labels if label.casefold() not in known))
        graph, place = self.graph, {label: len(self.vocabulary) + i for i, label in enumerate(new)}
        if new:
            text, table = (find or self.by_similarity)(new)
            graph = Graph(torch.cat([graph.text, text]), torch.cat([graph.table, table]))
        return graph, torch.tensor(
            [known.get(label.casefold(), place.get(label, -1)) for label in labels],
            dtype=torch.long,
        )

    def embed(self, words: list[str]) -> Tensor:
        """Text features [n, D] of any words, from the prompt ensemble or the tuned template."""
        if self.context is not None:
            return self.context.embed(self.clip, words)
        return embed(self.clip, words, self.templates)

    def by_similarity(self, words: list[str]) -> tuple[Tensor, Tensor]:
        """Text features [n, D] of new words and their neighbours [n, K]: the seen categories of
        most similar text.
        """
        text = self.embed(words)
        return text, similar_neighbours(
            text, self.graph.text[: self.vocabulary.seen_count], self.graph.table.shape[1]
        )


def load_export(folder: Path) -> Exported:
    """Builds the model of an export folder in eval mode. Raises UserError if it is absent, broken
    or of another format.

    Nothing in it is code, and nothing in it chooses what else is read: the config's types and sizes
    are checked first, then the tensors' shapes, and only then is anything built that has their
    size.
    """
    path, tensors_path = folder / CONFIG_FILE, folder / MODEL_FILE
    content = read_json(path, MADE_BY, ExportFile, FORMAT)
    if unknown := content["model"].keys() - {field.name for field in fields(ModelConfig)}:
        raise wrong(
            path, f"is not what it should be (model.{shown(min(unknown))}: unknown)", MADE_BY
        )
    clip_part, listed = content["clip"], content["vocabulary"]
    try:
        vocabulary = Vocabulary(tuple(listed["mids"]), tuple(listed["names"]), listed["seen_count"])
        config = ModelConfig(**content["model"])
        expected = shapes_of(clip_part["config"])
        tokenizer = read_tokenizer(folder / TOKENIZER, clip_part)
    except UserError as error:
        raise wrong(path, f"describes no model ({error})", MADE_BY) from error
    check_shapes(tensors_path, expected, vocabulary, content)
    check_belongs(tensors_path, content)
    tensors = read_tensors(tensors_path, MADE_BY, "text", "table")
    graph = Graph(tensors.pop("text").float(), tensors.pop("table").long())
    check_graph(tensors_path, graph)
    with opening(tensors_path, "the model that its config.json describes", MADE_BY):
        clip_model = build_model(clip_part["config"])
        head, context = taken(tensors, "head."), context_from(tensors, content["templates"])
        messages = messages_from(tensors_path, tensors, vocabulary)
        calibration = calibration_from(tensors_path, tensors, vocabulary)
        clip_model.load_state_dict(tensors, strict=True)
        clip = frozen_clip(
            clip_model, tokenizer, clip_part["config"], clip_part["mean"], clip_part["std"]
        )
        model = build_student(clip, config, LossConfig(), graph, vocabulary.seen_count)
        model.head.load_state_dict(head, strict=True)
    model.eval().requires_grad_(False)
    made_from, templates = content["made_from"], content["templates"]
    return Exported(
        model, clip, vocabulary, templates, graph, made_from, context, messages, calibration
    )


def begin_from(model: Network, folder: Path, clip_hash: str) -> None:
    """Gives a network the tower and the head of an export; the categories stay its own. Raises
    UserError where that was made from another CLIP, or is of another architecture.
    """
    content = read_json(folder / CONFIG_FILE, MADE_BY, ExportFile, FORMAT)
    if content["clip"]["hash"] != clip_hash:
        raise UserError(
            f"warm_start={folder} was trained from another CLIP: give that one as clip.name=… and"
            " clip.pretrained=…, or leave warm_start out"
        )
    weights, own = load_export(folder).model.state_dict(), model.state_dict()
    shapes, there = ({name: list(t.shape) for name, t in x.items()} for x in (own, weights))
    if odd := sorted(name for name in shapes | there if shapes.get(name) != there.get(name)):
        raise UserError(
            f"warm_start={folder} is another network: {shown(odd[0])} is"
            f" {there.get(odd[0], 'absent')} there and {shapes.get(odd[0], 'absent')} here,"
            f" {len(odd)} differ; give its model=… and model.* keys"
        )
    model.load_state_dict(weights)


def heard_neighbours(folder: Path) -> Tensor | None:
    """The neighbour table int64 [C, K] that an export's categories hear, −1 absent; None where they
    hear none: without IST, and in a baseline. Nothing else of the export is loaded.
    """
    model = read_json(folder / CONFIG_FILE, MADE_BY, ExportFile, FORMAT)["model"]
    if model.get("kind", KindConfig.kind) != KindConfig.kind or not model.get("ist", True):
        return None
    return read_tensor(folder / MODEL_FILE, MADE_BY, "table").long()


def taken(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Takes the tensors of this prefix out; by their names without it."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def context_from(tensors: dict[str, Tensor], templates: list[str]) -> Context | None:
    """The tuned template, if there is one."""
    return Context(templates[0], tensors.pop("context")) if "context" in tensors else None


def read_tokenizer(folder: Path, clip_part: dict) -> Tokenizer:
    """The tokenizer that an export brings with it, or CLIP's own. Raises UserError if it is not
    the one that was exported.
    """
    tokenizer = tokenizer_of(clip_part["config"], folder)
    if (tokenizer.hash or "") != clip_part.get("tokenizer", ""):
        raise UserError(f"its {folder.name} is another one than that of its CLIP")
    return tokenizer


def shapes_of(clip_config: dict) -> dict[str, tuple[int, ...]]:
    """The shapes of a CLIP's tensors by name, found without memory for them. Raises UserError."""
    return {
        name: tuple(tensor.shape)
        for name, tensor in build_model(clip_config, library.outline).state_dict().items()
    }


def check_shapes(
    path: Path, expected: dict[str, tuple[int, ...]], vocabulary: Vocabulary, content: dict
) -> None:
    """Raises UserError unless a file's tensors are those of the CLIP, of a head, and of a graph of
    the vocabulary.
    """
    found, (categories, width) = (
        tensor_shapes(path, MADE_BY),
        (len(vocabulary), content["clip"]["config"]["embed_dim"]),
    )
    expected = expected | {
        "text": (categories, width),
        "table": (categories, *found.get("table", (0, 0))[1:2]),
    }
    for name, shape in expected.items():
        if found.get(name) != shape:
            is_not = f"{list(found[name])}, not {list(shape)}" if name in found else "not there"
            raise wrong(
                path,
                f"is not the model that its config.json describes ({shown(name)} is {is_not})",
                MADE_BY,
            )
    if strange := [
        name
        for name in found
        if name not in expected and name != "context" and not name.startswith(OWN)
    ]:
        raise wrong(
            path,
            f"is not the model that its config.json describes (it has {shown(strange[0])})",
            MADE_BY,
        )


def check_belongs(path: Path, content: dict) -> None:
    """Raises UserError if a file's tensors say that they are another config's."""
    if tensors_note(path, MADE_BY, BELONGS) not in (None, belonging(content)):
        raise wrong(path, f"belongs to another model than the {CONFIG_FILE} beside it", MADE_BY)


def check_graph(path: Path, graph: Graph) -> None:
    """Raises UserError unless text features are numbers and neighbours are categories."""
    if not graph.text.isfinite().all():
        raise wrong(path, "holds text features that are not finite", MADE_BY)
    if graph.table.numel() and not -1 <= graph.table.min() <= graph.table.max() < len(graph.table):
        raise wrong(path, "names neighbours that are no categories", MADE_BY)


def messages_from(
    path: Path, tensors: dict[str, Tensor], vocabulary: Vocabulary
) -> Messages | None:
    """Takes the messages out of an export's tensors; None where it has none. Raises UserError
    unless they are of this vocabulary.
    """
    found = taken(tensors, MESSAGES)
    if not found:
        return None
    count, seen = len(vocabulary), vocabulary.seen_count
    widths = {
        name: found[name].shape[-1] if name in found and found[name].ndim else 0
        for name in ("sources", "neighbours")
    }
    shapes = {
        "sources": (seen, widths["sources"]),
        "weights": (seen, widths["sources"]),
        "neighbours": (count - seen, widths["neighbours"]),
        "shares": (count - seen, widths["neighbours"]),
        "own": (count,),
        "bias": (count,),
        "new": (2,),
    }
    check_fitted(path, found, shapes, "messages")
    columns = {name: found[name].long() for name in widths}
    for heard, most in ((columns["sources"], count), (columns["neighbours"], seen)):
        if heard.numel() and not 0 <= heard.min() <= heard.max() < most:
            raise wrong(path, "holds messages of categories that there are not", MADE_BY)
    numbers = {name: tensor.float() for name, tensor in found.items() if name not in widths}
    return Messages(**columns, **numbers)


def check_fitted(
    path: Path, found: dict[str, Tensor], shapes: Mapping[str, tuple[int, ...]], what: str
) -> None:
    """Raises UserError unless `found` has these shapes, and numbers in them."""
    if {name: tuple(tensor.shape) for name, tensor in found.items()} != shapes:
        raise wrong(path, f"holds {what} of another vocabulary", MADE_BY)
    if not all(tensor.isfinite().all() for tensor in found.values()):
        raise wrong(path, f"holds {what} with numbers that are not finite", MADE_BY)


def calibration_from(
    path: Path, tensors: dict[str, Tensor], vocabulary: Vocabulary
) -> Calibration | None:
    """Takes the calibration out of an export's tensors; None where it has none. Raises UserError
    unless it is of this vocabulary.
    """
    found = taken(tensors, CALIBRATION)
    if not found:
        return None
    count = len(vocabulary)
    shapes = {"slope": (count,), "offset": (count,), "threshold": (count,), "new": (3,)}
    check_fitted(path, found, shapes, "a calibration")
    return Calibration(**{name: tensor.float() for name, tensor in found.items()})
