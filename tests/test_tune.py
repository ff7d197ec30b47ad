"""Prompt tuning: the chunked gradient is the whole one, names stay as they are, memory is a
chunk's, the export works.
"""

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from c2srt.backbone.ensemble import embed
from c2srt.cluster.cli import main
from c2srt.errors import UserError
from c2srt.evaluation.scorers import ModelScorer, Subject
from c2srt.export.read import load_export
from c2srt.export.write import save_export
from c2srt.loader import train_batches
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.context import Context
from c2srt.model.graph import Graph
from c2srt.model.head import Head
from c2srt.model.literal import literal_scores
from c2srt.model.loss import pairwise_ranking_loss
from c2srt.model.network import C2SRT
from c2srt.model.text_gradient import text_gradient
from c2srt.model.tiling import Tiling
from c2srt.profiling import allocator_peak
from c2srt.shards import load_index
from c2srt.tune import Config, loader_config, loss_and_gradient, run
from c2srt.view_config import ViewConfig
from c2srt.vocabulary import Vocabulary
from tests.shard_folder import make_shards, make_vocabulary
from tests.tiny import random_graph, tiny_clip

TEMPLATE = "a photo of a {}."
SUM = LossConfig(reduction="sum")
NAMES = [
    "Dog",
    "Isle of man tt",
    "hot_dog",
    "hot dog",
    "a {} b",
    "Sprenger's tulip",
    " ".join(["long"] * 20),
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    clip = tiny_clip(tmp_path_factory.mktemp("double"))
    clip.model.double()
    return clip


def moved(context: Context, seed: int = 0) -> Context:
    """A context that is no longer CLIP's."""
    noise = torch.randn(
        context.values.shape,
        generator=torch.Generator().manual_seed(seed),
        dtype=context.values.dtype,
    )
    return Context(context.template, context.values + 0.02 * noise)


@pytest.mark.parametrize("template", [TEMPLATE, "{} in the scene", "there is a {}"])
def test_before_learning_features_are_those_of_the_plain_template(clip, template):
    context = Context.of(clip, template)
    torch.testing.assert_close(
        context.embed(clip, NAMES), embed(clip, NAMES, [template]), atol=2e-6, rtol=0
    )
    for chunk in (1, 2, 100):
        features = context.features(clip, context.prompts(clip, NAMES), chunk)
        torch.testing.assert_close(features, context.embed(clip, NAMES), atol=2e-6, rtol=0)
    assert torch.equal(features[2], features[3])


def test_the_context_stands_where_the_template_does_and_nowhere_else(clip):
    context = Context.of(clip, TEMPLATE)
    prompts = context.prompts(clip, ["Dog", "Isle of man"])
    row, length = prompts.place[1], 12  # start, a photo of a, isle of man, full stop, end
    own = prompts.slots[row].tolist()
    assert (
        own[:5] == [-1, 0, 1, 2, 3]
        and own[-1] == -1
        and [slot for slot in own if slot >= 0] == [0, 1, 2, 3, 4]
    )
    name = [
        place
        for place in range(length)
        if own[place] == -1 and prompts.tokens[row, place] not in (0, 49406, 49407)
    ]
    assert (
        prompts.tokens[row, name].tolist()
        == clip.tokenize(["Isle of man"])[0, 1 : 1 + len(name)].tolist()
    )
    ended = Context.of(clip, TEMPLATE).prompts(
        clip, ["Washington D.C."]
    )  # whole, ".." would be one token
    assert [slot for slot in ended.slots[0].tolist() if slot >= 0] == [0, 1, 2, 3, 4]


def test_names_and_marks_get_no_update(clip):
    """A change of the context changes the inputs at its own places only."""
    context = Context.of(clip, TEMPLATE)
    prompts, seen = context.prompts(clip, NAMES), []
    for one in (context, moved(context)):
        encode = type(clip).encode_embedded
        try:
            type(clip).encode_embedded = lambda self, embedded, ends, encode=encode: (
                seen.append(embedded),
                encode(self, embedded, ends),
            )[1]
            one.features(clip, prompts)
        finally:
            type(clip).encode_embedded = encode
    changed = (seen[0] != seen[1]).any(-1)
    assert torch.equal(changed, (prompts.slots >= 0)[:, : changed.shape[1]])
    assert not any(
        parameter.requires_grad or parameter.grad is not None
        for parameter in clip.model.parameters()
    )


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_give_the_gradient_of_one_pass_over_all_prompts(double, chunk):
    context = moved(Context.of(double, TEMPLATE))
    prompts = context.prompts(double, NAMES)
    upstream = torch.randn(len(NAMES), double.width, dtype=torch.float64)
    upstream[1] = 0  # is not run
    values = context.values.clone().requires_grad_()
    plain = Context(TEMPLATE, values)
    (plain.encode(double, prompts.tokens, prompts.slots)[prompts.place] * upstream).sum().backward()
    torch.testing.assert_close(
        context.gradient(double, prompts, upstream, chunk), values.grad, atol=1e-12, rtol=1e-9
    )
    assert values.grad.abs().max() > 1e-3


def test_the_gradient_is_that_of_finite_differences(double):
    context = moved(Context.of(double, TEMPLATE))
    prompts = context.prompts(double, NAMES)
    upstream, step = (
        torch.randn(len(NAMES), double.width, dtype=torch.float64),
        torch.zeros_like(context.values),
    )
    step[2, 5] = 1e-6
    values = [
        (Context(TEMPLATE, context.values + sign * step).features(double, prompts) * upstream).sum()
        for sign in (1, -1)
    ]
    expected = ((values[0] - values[1]) / 2e-6).item()
    assert context.gradient(double, prompts, upstream)[2, 5].item() == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("unverified", ["negative", "ignore"])
@pytest.mark.parametrize(
    "fold, changes",
    [
        (True, {}),
        (False, {}),
        (True, {"layers": 1, "self_loops": False}),
        (True, {"isr": False}),
        (False, {"input_layers": 2}),
        (False, {"ist": False}),
    ],
)
def test_the_head_s_gradient_for_text_is_that_of_the_literal_form(fold, changes, unverified):
    config = ModelConfig(heads=4, max_patches=4, init="literal", **changes)
    torch.manual_seed(0)
    head, graph = Head(16, config, 5.0).double(), random_graph(12, 12, 16, 4, dtype=torch.float64)
    patches, global_ = torch.randn(3, 9, 16).double(), torch.randn(3, 16).double()
    weights = torch.tensor([1.0, 0.5, 0.0]).double()
    labels = torch.randint(-1, 2, (3, 12))
    loss = LossConfig(unverified=unverified, reduction="sum")
    value, gradient = text_gradient(
        head, patches, global_, labels, weights, graph, loss, Tiling(2, 5, 0, fold)
    )
    text = graph.text.clone().requires_grad_()
    scores, _ = literal_scores(head, patches, global_, Graph(text, graph.table))
    expected = (weights * pairwise_ranking_loss(scores, labels, loss)).mean()
    expected.backward()
    tangent = (
        text.grad - (text.grad * graph.text).sum(-1, keepdim=True) * graph.text
    )  # features have unit length
    found = gradient - (gradient * graph.text).sum(-1, keepdim=True) * graph.text
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(found, tangent, atol=1e-12, rtol=1e-9)
    assert tangent.abs().max() > 1e-4


def memory(clip, count: int, chunk: int) -> int:
    context = Context.of(clip, TEMPLATE)
    prompts = context.prompts(clip, [f"thing {number:04}" for number in range(count)])
    upstream = torch.randn(count, clip.width)

    def work() -> None:
        context.features(clip, prompts, chunk)
        context.gradient(clip, prompts, upstream, chunk)

    return allocator_peak(work)


def test_memory_is_a_chunk_s_whatever_the_number_of_categories(clip):
    rows = (
        4 * 4 * (clip.width + 3)
    )  # features, their copy in order, the upstream by prompt, its flags: bytes a category
    small, large = memory(clip, 64, 32), memory(clip, 1024, 32)
    assert large - small <= 960 * rows
    assert memory(clip, 1024, 1024) > 4 * large  # the control: in one chunk it does grow


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Shards, and an exported model that was trained with one template.

    Without ISR, whose choice of patches jumps from step to step with random weights; and with the
    plain sum as its loss: the mean over violating pairs may rise when small violations go.
    """
    folder = tmp_path_factory.mktemp("tune")
    clip, vocabulary = tiny_clip(folder), make_vocabulary(8, 3)
    make_shards(folder / "shards", {"train": 24, "test": 6}, 12, vocabulary)
    torch.manual_seed(0)
    graph = Graph(embed(clip, list(vocabulary.names), [TEMPLATE]), random_graph(11, 8, 16, 3).table)
    model = C2SRT(
        clip, ModelConfig(heads=4, neighbours=3, init="literal", isr=False), LossConfig(), graph, 8
    )
    for name, templates in (("model", [TEMPLATE]), ("ensemble", [TEMPLATE, "{}"])):
        made_from = {"config_hash": "of the training", "config": {"loss": asdict(SUM)}}
        save_export(
            folder / name, model, model.state_dict(), clip, vocabulary, templates, made_from
        )
    return folder


def settings(work, **changes) -> Config:
    """Each step sees all 24 images as they are."""
    config = Config(
        str(work / "model"),
        str(work / "shards"),
        str(work / "tuned"),
        str(work),
        batch=24,
        micro_batch=4,
        lr=2e-4,
        chunk=3,
        views=ViewConfig(count=0),
        loader_workers=0,
        log_every=1,
        epochs=12,
    )
    return replace(config, **changes)


@pytest.fixture(scope="module")
def tuned(work):
    run(settings(work))
    return work / "tuned"


def loss_of(exported, work) -> float:
    """The mean ranking loss over the training images."""
    loader = loader_config(settings(work), exported.clip.image_size)
    batches = list(
        train_batches(loader, load_index(work / "shards"), exported.vocabulary, stop_step=1)
    )
    text = exported.graph.text[:8]
    return sum(loss_and_gradient(exported, text, batch, SUM)[0] for batch in batches) / len(batches)


def test_the_loss_falls_and_is_the_model_s_own(work, tuned):
    before, after = load_export(work / "model"), load_export(tuned / "model")
    losses = [loss for _, loss in after.made_from["tuned"]["loss"]]
    assert len(losses) == 12 and losses == sorted(losses, reverse=True)
    assert loss_of(after, work) < losses[-1] < loss_of(before, work) - 0.01
    assert losses[0] == pytest.approx(first_loss(before, work), rel=1e-5)


def first_loss(exported, work) -> float:
    """What training's own forward says of the first update's images."""
    loader = loader_config(settings(work), exported.clip.image_size)
    batches, exported.model.loss = (
        train_batches(loader, load_index(work / "shards"), exported.vocabulary, stop_step=1),
        SUM,
    )
    values = [
        exported.model.ranking(
            *exported.model.tower(exported.model.pixels(batch.images)), batch.labels, batch.weights
        )[0]
        for batch in batches
    ]
    return torch.stack(values).mean().item()


def test_the_export_differs_in_text_alone_and_embeds_new_words(work, tuned):
    before, after = (
        load_file(folder / "model.safetensors") for folder in (work / "model", tuned / "model")
    )
    assert set(after) - set(before) == {"context"} and not set(before) - set(after)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"text"}
    exported = load_export(tuned / "model")
    names = list(exported.vocabulary.names)
    torch.testing.assert_close(
        exported.embed(names), exported.graph.text, atol=2e-6, rtol=0
    )  # seen and unseen
    assert (
        exported.embed(["red car"]) - load_export(work / "model").embed(["red car"])
    ).abs().max() > 1e-3
    torch.testing.assert_close(after["text"], normalize(after["text"], dim=-1), atol=1e-6, rtol=0)
    assert (
        exported.templates == [TEMPLATE] and exported.made_from["config_hash"] == "of the training"
    )


def test_evaluate_and_predict_take_it_as_it_is(work, tuned, capsys, tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    scorer = ModelScorer(Subject(str(tuned / "model"), make_vocabulary(8, 3)), torch.device("cpu"))
    assert scorer.scores(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))[0].shape == (2, 11)
    found = {}
    for checkpoint in ("model", "tuned"):
        images = [f"images={tmp_path}/red.png", "labels=[thing 9,red car]", "json=true"]
        assert main(["predict", f"checkpoint={work / checkpoint}", *images]) == 0
        labels = json.loads(capsys.readouterr().out)["labels"]
        found[checkpoint] = {entry["label"]: entry["score"] for entry in labels}
    assert all(
        abs(found["model"][label] - found["tuned"][label]) > 1e-4
        for label in ("thing 9", "red car")
    )


def test_the_verb_with_its_configuration_is_a_no_op_when_up_to_date(work, capsys, tmp_path):
    arguments = [
        "tune",
        f"work={work}",
        f"checkpoint={work}/model",
        f"out={tmp_path}",
        "loader_workers=0",
        "steps=2",
        "batch=8",
        "micro_batch=8",
    ]
    assert main(arguments) == 0 and "tuned for 2 steps" in capsys.readouterr().out
    content = (tmp_path / "model/model.safetensors").read_bytes()
    assert main(arguments) == 0 and "is up to date" in capsys.readouterr().out
    assert (
        main([*arguments, "seed=1"]) == 0
        and (tmp_path / "model/model.safetensors").read_bytes() != content
    )
    assert (
        main(arguments) == 0 and (tmp_path / "model/model.safetensors").read_bytes() == content
    )  # the same again, bit for bit
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model",
        "run.json",
        "tracking.jsonl",
    ]


def test_a_killed_run_leaves_nothing_half_written(work, monkeypatch):
    out = work / "killed"

    def killed(*_):
        (out / "model.tmp-4194305").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("c2srt.tune.take_step", killed)
        with pytest.raises(KeyboardInterrupt):
            run(settings(work, out=str(out), steps=1))
    assert not (out / "model").exists()
    run(settings(work, out=str(out), steps=1))
    assert sorted(path.name for path in out.iterdir()) == ["model", "run.json", "tracking.jsonl"]


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"checkpoint": "nowhere"}, "is not an exported model"),
        ({"checkpoint": "ensemble"}, "trained with 2 templates and one is tuned"),
        ({"template": "a photo"}, "must contain {} exactly once"),
        ({"template": "{}"}, "nothing to learn"),
        ({"out": "."}, "choose another folder"),
        ({"steps": 2, "lr": 1e30}, "not finite"),
    ],
)
def test_bad_input_is_one_sentence(work, tmp_path, changes, sentence):
    folders = {name: str(work / changes[name]) for name in ("checkpoint", "out") if name in changes}
    with pytest.raises(UserError, match=sentence):
        run(settings(work, **{"out": str(tmp_path)} | changes | folders))


def test_shards_of_another_vocabulary_and_a_tuned_checkpoint_are_refused(work, tuned, tmp_path):
    make_shards(
        tmp_path / "shards", {"train": 8}, 8, Vocabulary(("/m/0", "/m/1"), ("one", "two"), 1)
    )
    with pytest.raises(UserError, match="was made for vocabulary"):
        run(settings(work, shards=str(tmp_path / "shards"), out=str(tmp_path)))
    with pytest.raises(UserError, match="has a tuned template already"):
        run(settings(work, checkpoint=str(tuned), out=str(tmp_path)))
    for bad in ({"lr": 0.0}, {"chunk": 0}, {"steps": 0}):
        with pytest.raises(UserError):
            settings(work, **bad)
