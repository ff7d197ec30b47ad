"""What a training reads from disk, checked against each other, and the model that it makes of
it.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from c2srt.artefact import FILES
from c2srt.backbone.clip import Clip, load_clip
from c2srt.errors import UserError
from c2srt.export.files import find_export, identity
from c2srt.export.read import begin_from
from c2srt.export.write import save_export
from c2srt.files import hash_of
from c2srt.hints import Command
from c2srt.model.build import build_student
from c2srt.model.graph import Graph
from c2srt.model.network import Network
from c2srt.opened import read_json
from c2srt.relations.table import PROVENANCE as GRAPH_RECORD, TABLE, load_relations
from c2srt.shards import ShardIndex
from c2srt.teacher.cache import cache_key
from c2srt.text import FEATURES, PROVENANCE as TEXT_RECORD, load_text
from c2srt.train.config import ONLINE, Config
from c2srt.train.data import TRAIN, load_data
from c2srt.vocabulary import Vocabulary


@dataclass
class Inputs:
    """Everything that a training reads but the images.

    `hashes` names the identity of each artefact, `teacher_key` what a teacher cache must have been
    made from, `image_size` is S in pixels. `clip` may be set to None once the model is built: it
    holds the text tower too.
    """

    vocabulary: Vocabulary
    index: ShardIndex
    clip: Clip | None
    image_size: int
    graph: Graph
    templates: list[str]
    teacher_key: dict
    hashes: dict[str, str]


def load_inputs(config: Config) -> Inputs:
    """Loads and checks the artefacts. Raises UserError naming the one that is absent or does not
    fit, and its command.
    """
    text, relations = Path(config.text), Path(config.relations)
    index, vocabulary = load_data(config)
    clip = load_clip(config.clip)
    made = records(text, relations)
    features = load_text(text, vocabulary, clip.hash)
    table = load_relations(relations, vocabulary, config.model.neighbours)
    if records(text, relations) != made:
        raise UserError(
            f"{text} or {relations} was written anew while it was read: run the same command again"
        )
    teacher = cache_key(clip, config.views, config.seed, index, [TRAIN])
    hashes = {
        "shards": hash_of([(shard.name, shard.sha256) for shard in index.split(TRAIN)]),
        "vocabulary": vocabulary.hash,
        "clip": clip.hash,
        "text": made["text"][FILES][FEATURES],
        "relations": made["relations"][FILES][TABLE],
        "teacher": (
            hash_of(teacher)
            if config.uses_teacher
            else ONLINE
            if config.loss.distillation > 0
            else "none"
        ),
    }
    if config.warm_start:
        hashes["warm_start"] = identity(find_export(config.warm_start, "warm_start"))
    templates = made["text"]["made_from"]["templates"]
    return Inputs(
        vocabulary, index, clip, clip.image_size, Graph(features, table), templates, teacher, hashes
    )


def records(text: Path, relations: Path) -> dict[str, dict]:
    return {
        "text": read_json(text / TEXT_RECORD, Command("text")),
        "relations": read_json(relations / GRAPH_RECORD, Command("relations")),
    }


def build_model(config: Config, inputs: Inputs) -> Network:
    """The model before its first step: the same on every rank, for one seed."""
    torch.manual_seed(config.seed)
    assert inputs.clip is not None
    model = build_student(
        inputs.clip,
        config.model,
        config.loss,
        inputs.graph,
        inputs.vocabulary.seen_count,
        config.teacher == ONLINE,
    )
    if config.warm_start:
        begin_from(model, find_export(config.warm_start, "warm_start"), inputs.clip.hash)
    return model


def load_trained(model: Network, weights: dict[str, Tensor], source: Path | str) -> None:
    """Sets the trainable parameters. Raises UserError when `weights` are those of another model."""
    parameters = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    shapes, found = (
        {name: list(t.shape) for name, t in tensors.items()} for tensors in (parameters, weights)
    )
    if shapes != found:
        odd = sorted(name for name in shapes | found if shapes.get(name) != found.get(name))
        raise UserError(
            f"{source} is the checkpoint of another model: {odd[0]} is"
            f" {found.get(odd[0], 'absent')} there and {shapes.get(odd[0], 'absent')} here,"
            f" {len(odd)} differ"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def export_weights(
    folder: Path, config: Config, weights: dict[str, Tensor], made_from: dict
) -> None:
    """Writes the plain export: the CLIP's own frozen weights, exact, with the trained ones in place
    of theirs.
    """
    inputs = load_inputs(config)
    model = build_model(config, inputs)
    load_trained(model, weights, folder)
    assert inputs.clip is not None
    save_export(
        folder,
        model,
        model.state_dict(),
        inputs.clip,
        inputs.vocabulary,
        inputs.templates,
        made_from,
    )
