"""The exported model: two files that need neither DeepSpeed nor the training config.

    model.safetensors   float32: `visual.*` (the student's tower, open_clip names), `head.*`, the frozen CLIP's other weights
                        (text tower, logit_scale; open_clip names), `text` [C, D] unit rows, `table` int32 [C, K]; after
                        `c2srt tune` also `context`, the learned embeddings of the one template
    config.json         {"format": 1, "model": ModelConfig, "clip": {"config", "mean", "std", "hash"}, "vocabulary": {…},
                        "templates": […], "made_from": {…}}
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from c2srt.errors import UserError
from c2srt.files import read_json, whole_folder, write_json
from c2srt.hints import Command
from c2srt.model.clip import Clip, build_model, frozen_clip
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.context import Context
from c2srt.model.head import Graph
from c2srt.model.kinds import build_student
from c2srt.model.network import Student
from c2srt.relations import similar_neighbours
from c2srt.text import embed
from c2srt.vocabulary import Vocabulary

FORMAT = 1
MODEL_FILE, CONFIG_FILE = "model.safetensors", "config.json"
MADE_BY = Command("export")


@dataclass
class Exported:
    """A loaded model with everything that predicting needs."""

    model: Student
    clip: Clip
    vocabulary: Vocabulary
    templates: list[str]
    graph: Graph
    made_from: dict = field(default_factory=dict)
    context: Context | None = None

    def scores(self, images: Tensor, graph: Graph | None = None) -> tuple[Tensor, Tensor | None]:
        """As `C2SRT.scores`."""
        return self.model.scores(images, graph)

    def graph_for(self, labels: list[str],
                  find: Callable[[list[str]], tuple[Tensor, Tensor]] | None = None) -> tuple[Graph, Tensor]:
        """A graph that scores any words, and the columns [n] of `labels` in it; no training is needed.

        A label that is a vocabulary name (case aside; the first of homonyms, or the one whose MID it gives, as in
        `Vocabulary.labels`) keeps its text feature and neighbours. For the others `find` (default: `by_similarity`) gives text features [n, D] and neighbours [n, K].
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
        return graph, torch.tensor([known.get(label.casefold(), place.get(label, -1)) for label in labels], dtype=torch.long)

    def embed(self, words: list[str]) -> Tensor:
        """Text features [n, D] of any words, from the prompt ensemble or the tuned template."""
        if self.context is not None:
            return self.context.embed(self.clip, words)
        return embed(self.clip, words, self.templates)

    def by_similarity(self, words: list[str]) -> tuple[Tensor, Tensor]:
        """Text features [n, D] of new words and their neighbours [n, K]: the seen categories of most similar text."""
        text = self.embed(words)
        return text, similar_neighbours(text, self.graph.text[: self.vocabulary.seen_count], self.graph.table.shape[1])


def is_only_export(folder: Path) -> bool:
    """Whether the folder holds an export of ours and nothing else, so that another may take its place: other programs' models
    lie in files of the same names."""
    if not {path.name for path in folder.iterdir()} <= {MODEL_FILE, CONFIG_FILE}:
        return False
    with suppress(UserError):
        return {"format", "model", "clip", "vocabulary"} <= read_json(folder / CONFIG_FILE, MADE_BY).keys()
    return False


def save_export(folder: Path, model: Student, state: dict[str, Tensor], clip: Clip, vocabulary: Vocabulary, templates: list[str],
                made_from: dict) -> None:
    """Writes the two files, whole or not at all. `state` is the model's full state dict (gathered, any float type);
    `clip` the frozen CLIP that it was made from; `made_from` hashes and settings for the record."""
    tower = {name.removeprefix("tower."): tensor for name, tensor in state.items() if name.startswith("tower.")}
    tensors = model.tower.clip_state(tower) | {name: tensor for name, tensor in state.items() if name.startswith("head.")}
    tensors |= {name: tensor for name, tensor in clip.model.state_dict().items() if not name.startswith("visual.")}
    tensors = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in tensors.items()}
    graph = model.graph_on(torch.device("cpu"))
    tensors |= {"text": graph.text.float().contiguous(), "table": graph.table.to(torch.int32).contiguous()}
    described = {"config": clip.model_config, "mean": clip.mean, "std": clip.std, "hash": clip.hash}
    listed = {"mids": vocabulary.mids, "names": vocabulary.names, "seen_count": vocabulary.seen_count}
    with whole_folder(folder, is_only_export) as temporary:
        save_file(tensors, temporary / MODEL_FILE)
        write_json(temporary / CONFIG_FILE, {"format": FORMAT, "model": asdict(model.config), "clip": described, "vocabulary": listed,
                                               "templates": templates, "made_from": made_from})


def save_with_context(folder: Path, source: Path, text: Tensor, context: Context, made_from: dict,
                      check: Callable[[], None] = lambda: None) -> None:
    """Writes the export in `source` again with a tuned template: its `text` [C, D] for all categories, and the context that
    embeds new words. `check` raises if what was read of `source` is not what the context was tuned for."""
    tensors, content = load_file(source / MODEL_FILE), read_json(source / CONFIG_FILE, MADE_BY)
    check()
    tensors |= {"text": text.float().cpu().contiguous(), "context": context.values.detach().float().cpu().contiguous()}
    with whole_folder(folder, is_only_export) as temporary:
        save_file(tensors, temporary / MODEL_FILE)
        write_json(temporary / CONFIG_FILE, content | {"templates": [context.template], "made_from": made_from})


def load_export(folder: Path) -> Exported:
    """Builds the model of an export folder in eval mode. Raises UserError if it is absent, broken or of another format."""
    content = read_json(folder / CONFIG_FILE, MADE_BY)
    if content.get("format") != FORMAT:
        raise UserError(f"{folder} has export format {content.get('format')}, this version reads {FORMAT}: run `{MADE_BY}` again")
    vocabulary = Vocabulary(tuple(content["vocabulary"]["mids"]), tuple(content["vocabulary"]["names"]), content["vocabulary"]["seen_count"])
    try:
        tensors = load_file(folder / MODEL_FILE)
        clip_model = build_model(content["clip"]["config"])
        head = {name: tensors.pop(name) for name in list(tensors) if name.startswith("head.")}
        graph = Graph(tensors.pop("text"), tensors.pop("table").long())
        context = Context(content["templates"][0], tensors.pop("context")) if "context" in tensors else None
        clip_model.load_state_dict(tensors, strict=True)
        clip = frozen_clip(clip_model, content["clip"]["config"], content["clip"]["mean"], content["clip"]["std"])
        model = build_student(clip, ModelConfig(**content["model"]), LossConfig(), graph, vocabulary.seen_count)
        model.head.load_state_dict({name.removeprefix("head."): tensor for name, tensor in head.items()}, strict=True)
    except (OSError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder / MODEL_FILE} is not the model that its config.json describes ({reason}): "
                        f"make it again with `{MADE_BY}`") from error
    model.eval().requires_grad_(False)
    return Exported(model, clip, vocabulary, content["templates"], graph, content["made_from"], context)
