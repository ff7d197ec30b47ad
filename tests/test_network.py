"""The whole module: towers, freezing, teacher, weights, export."""

import copy
import dataclasses

import open_clip
import pytest
import torch
import torch.nn.functional as F

from c2srt.backbone.clip import build_outline, load_clip
from c2srt.backbone.config import ClipConfig
from c2srt.backbone.tokens import tokenizer_of
from c2srt.backbone.tower import normalise
from c2srt.errors import UserError
from c2srt.export.read import load_export
from c2srt.export.write import save_export
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.graph import Graph
from c2srt.model.isr import assignment
from c2srt.model.network import C2SRT
from c2srt.vocabulary import Vocabulary
from tests.tiny import random_graph, tiny_clip, tiny_clip_config

C, SEEN, K = 12, 9, 3


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def batch(images: int = 4, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (images, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(-1, 2, (images, SEEN), generator=generator, dtype=torch.int8)
    return pixels, labels, torch.randn(images, 16, generator=generator).half(), torch.ones(images)


def model_of(clip, online=False, dtype=torch.float32, **changes) -> C2SRT:
    torch.manual_seed(0)
    config = ModelConfig(
        **{"heads": 4, "neighbours": K, "init": "literal", "trainable_blocks": None, **changes}
    )
    return C2SRT(
        clip, config, LossConfig(), random_graph(C, SEEN, 16, K, dtype=dtype), SEEN, online
    ).to(dtype)


class Scores(torch.nn.Module):
    """What is traced: images in, scores and patch counts out."""

    def __init__(self, student: C2SRT) -> None:
        super().__init__()
        self.student = student

    def forward(self, images):
        return self.student.scores(images)


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"isr": False},
        {"ist": False},
        {"pooling": "weighted"},
        {"input_layers": 2},
        {"residual": False},
    ],
)
def test_torch_export_gives_the_same_scores_for_any_number_of_images(clip, changes, complete):
    """Where neighbours are missing (the table's −1) and where none is."""
    model = model_of(clip, **changes)
    if complete:
        model._graph = Graph(model._graph.text, model._graph.table.clamp(min=0))
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    images = batch()[0]
    program = torch.export.export(
        Scores(model), (images[:2],), dynamic_shapes=({0: torch.export.Dim("images")},)
    ).module()
    for some in (images[:1], images[:2], images):
        expected, found = model.scores(some), program(some)
        torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
        assert (found[1] is None) == (expected[1] is None) and (
            found[1] is None or torch.equal(found[1], expected[1])
        )


def test_torch_export_takes_exactly_n_of_equal_patches(clip):
    """The general way of the choice of patches, which eager code takes for ties only."""
    patches, text = torch.ones(1, 6, 4), F.normalize(torch.ones(2, 4), dim=-1)

    class Choice(torch.nn.Module):
        def forward(self, patches, text):
            return assignment(patches, text, 1.0, 0.5, 3, False)

    program = torch.export.export(Choice(), (patches, text)).module()
    for given in (patches, torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))):
        assert torch.equal(program(given, text), assignment(given, text, 1.0, 0.5, 3, False))


# open_clip's models with its own ViT, but with tokens that CLIP's tokenizer does not make
FOREIGN = {
    "another tokenizer": [
        "ViT-bigG-14-CLIPA",
        "ViT-bigG-14-CLIPA-336",
        "ViT-bigG-14-worldwide",
        "ViT-bigG-14-worldwide-378",
        "ViT-H-14-CLIPA",
        "ViT-H-14-CLIPA-336",
        "ViT-H-14-worldwide",
        "ViT-H-14-worldwide-378",
        "ViT-H-14-worldwide-quickgelu",
        "ViT-L-14-CLIPA",
        "ViT-L-14-CLIPA-336",
        "ViT-L-14-worldwide",
        "ViT-L-14-worldwide-quickgelu",
    ],
    "a CoCa": ["coca_roberta-ViT-B-32"],
    "a Hugging Face model": [
        "mt5-base-ViT-B-32",
        "mt5-xl-ViT-H-14",
        "nllb-clip-base",
        "nllb-clip-large",
        "roberta-ViT-B-32",
        "xlm-roberta-base-ViT-B-32",
        "xlm-roberta-large-ViT-H-14",
    ],
}


def test_text_towers_with_other_tokens_are_refused_before_they_are_built():
    """All of open_clip's own configurations with a native ViT: these 21 and no other, whatever
    reads the configuration.
    """
    for reason, names in FOREIGN.items():
        for name in names:
            for build in (load_clip, build_outline):
                with pytest.raises(UserError, match=reason):
                    build(ClipConfig(name, "random"))
    configs = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}
    native = {
        name: config
        for name, config in configs.items()
        if "timm_model_name" not in config["vision_cfg"]
    }
    for name in set(native) - {name for names in FOREIGN.values() for name in names}:
        tokenizer_of(native[name])
    with pytest.raises(UserError, match="knows 1,000 tokens"):
        tokenizer_of({"text_cfg": {"vocab_size": 1000}})


def test_an_export_that_names_a_model_of_the_hub_is_refused(clip, tmp_path):
    clip = dataclasses.replace(clip, model_config=copy.deepcopy(clip.model_config))
    clip.model_config["text_cfg"]["hf_model_name"] = "some/model"
    model = model_of(clip)
    save_export(
        tmp_path / "model",
        model,
        model.state_dict(),
        clip,
        Vocabulary(tuple("abcdefghijkl"), tuple("abcdefghijkl"), SEEN),
        ["a {}."],
        {},
    )
    with pytest.raises(UserError, match="a Hugging Face model"):
        load_export(tmp_path / "model")


def test_the_tower_gives_clips_own_features(clip):
    pixels = normalise(batch()[0], torch.tensor(clip.mean), torch.tensor(clip.std))
    patches, global_ = clip.tower(pixels)
    found = model_of(clip).tower(pixels)
    torch.testing.assert_close(found[0], patches)
    torch.testing.assert_close(found[1], global_)
    assert patches.shape == (4, 16, 16) and clip.patches == 16


def test_building_a_student_leaves_the_clip_as_it_was(clip):
    before = clip.hash
    model_of(clip)
    assert clip.tower.proj is not None
    del clip.__dict__["hash"]
    assert clip.hash == before


def test_literal_and_tiled_forms_train_alike(clip):
    gradients = []
    for form in ("tiled", "literal"):
        model = model_of(clip, form=form, dtype=torch.double)
        pixels, labels, teacher, weights = batch()
        values = model(pixels, labels, teacher.double(), weights.double())
        values["loss"].backward()
        gradients.append(
            {name: parameter.grad for name, parameter in model.named_parameters()}
            | {"loss": values["loss"].detach()}
        )
    for name, tiled in gradients[0].items():
        torch.testing.assert_close(tiled, gradients[1][name], rtol=1e-9, atol=1e-9, msg=name)


def test_freezing_leaves_the_last_blocks(clip):
    model = model_of(clip, trainable_blocks=1)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(
        name.startswith(
            ("head.", "tower.proj", "tower.vit.ln_post.", "tower.vit.transformer.resblocks.2.")
        )
        for name in trained
    )
    assert (
        any("resblocks.2" in name for name in trained)
        and "tower.proj" in trained
        and "head.source" in trained
    )
    with pytest.raises(UserError, match="outside 0…3"):
        model_of(clip, trainable_blocks=4)


def test_parameter_depth_counts_from_the_output(clip):
    model = model_of(clip)
    depths = {name: model.parameter_depth(name) for name, _ in model.named_parameters()}
    assert depths["head.source"] == depths["tower.proj"] == depths["tower.vit.ln_post.weight"] == 0
    assert depths["tower.vit.transformer.resblocks.2.mlp.c_fc.weight"] == 1
    assert depths["tower.vit.transformer.resblocks.0.mlp.c_fc.weight"] == 3
    assert depths["tower.vit.conv1.weight"] == depths["tower.vit.class_embedding"] == 4


def test_online_and_cached_teachers_give_the_same_loss(clip):
    pixels, labels, _, weights = batch()
    cached = clip.tower(normalise(pixels, torch.tensor(clip.mean), torch.tensor(clip.std)))[1]
    moved = model_of(clip, online=True)
    with torch.no_grad():
        moved.tower.proj.mul_(1.5)
    alone = copy.deepcopy(moved)
    alone._teacher = []
    online, offline = moved(pixels, labels, None, weights), alone(pixels, labels, cached, weights)
    assert online["distillation"].item() == pytest.approx(offline["distillation"].item(), rel=1e-6)
    assert online["distillation"] > 0.01
    with pytest.raises(UserError, match="needs a teacher"):
        alone(pixels, labels, None, weights)


def test_weight_zero_removes_an_image(clip):
    pixels, labels, teacher, _ = batch(4)
    model = model_of(clip)
    padded = model(pixels, labels, teacher, torch.tensor([4 / 3, 4 / 3, 4 / 3, 0]))["loss"]
    three = model(pixels[:3], labels[:3], teacher[:3], torch.ones(3))["loss"]
    assert padded.item() == pytest.approx(three.item(), rel=1e-5)


def test_micro_batches_accumulate_to_the_full_gradient(clip):
    pixels, labels, teacher, weights = batch(4)
    whole, parts = model_of(clip), model_of(clip)
    whole(pixels, labels, teacher, weights)["loss"].backward()
    for half in (slice(0, 2), slice(2, 4)):
        (parts(pixels[half], labels[half], teacher[half], weights[half])["loss"] / 2).backward()
    for (name, one), other in zip(whole.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_graphs_that_do_not_fit_are_refused(clip):
    graph = random_graph(C, SEEN, 16, K)
    with pytest.raises(UserError, match="8 wide"):
        C2SRT(
            clip,
            ModelConfig(heads=4, neighbours=K),
            LossConfig(),
            Graph(graph.text[:, :8], graph.table),
            SEEN,
        )
    with pytest.raises(UserError, match="outside the 9 seen"):
        bad = graph.table.clone()
        bad[0, 0] = SEEN
        C2SRT(clip, ModelConfig(heads=4, neighbours=K), LossConfig(), Graph(graph.text, bad), SEEN)
    with pytest.raises(UserError, match="neighbours=5 but the relation graph keeps 3"):
        C2SRT(clip, ModelConfig(heads=4, neighbours=5), LossConfig(), graph, SEEN)
    with pytest.raises(UserError, match="NaN or infinity: run `c2srt text`"):
        C2SRT(
            clip,
            ModelConfig(heads=4, neighbours=K),
            LossConfig(),
            Graph(graph.text / 0, graph.table),
            SEEN,
        )
    for categories, seen in ((0, 0), (C, 0)):
        with pytest.raises(UserError, match=f"{categories} categories, 0 of them seen"):
            C2SRT(
                clip,
                ModelConfig(heads=4, neighbours=K),
                LossConfig(),
                graph.first(categories),
                seen,
            )


def test_export_round_trip_scores_bit_for_bit(clip, tmp_path):
    model = model_of(clip)
    vocabulary = Vocabulary(
        tuple(f"/m/{i}" for i in range(C)),
        ("Dog", "cat", *(f"thing {i}" for i in range(C - 2))),
        SEEN,
    )
    save_export(
        tmp_path / "model",
        model,
        model.state_dict(),
        clip,
        vocabulary,
        ["a photo of a {}."],
        {"step": 3},
    )
    exported = load_export(tmp_path / "model")
    pixels = batch()[0]
    assert torch.equal(exported.scores(pixels)[0], model.scores(pixels)[0])
    assert exported.vocabulary == vocabulary and exported.made_from == {"step": 3}
    assert torch.equal(
        exported.clip.encode_text(clip.tokenize(["a dog"])),
        clip.encode_text(clip.tokenize(["a dog"])),
    )

    graph, columns = exported.graph_for(["dog", "a zebra", "CAT", "a zebra"])
    assert columns.tolist() == [0, C, 1, C]
    scores = exported.scores(pixels, graph)[0]
    torch.testing.assert_close(scores[:, :C], model.scores(pixels)[0])
    assert scores.shape == (4, C + 1) and 0 <= graph.table[C].max() < SEEN
    assert F.normalize(graph.text[C], dim=0).allclose(graph.text[C])


def test_a_damaged_export_is_refused(clip, tmp_path):
    model = model_of(clip)
    vocabulary = Vocabulary(
        tuple(f"/m/{i}" for i in range(C)), tuple(f"thing {i}" for i in range(C)), SEEN
    )
    save_export(tmp_path / "model", model, model.state_dict(), clip, vocabulary, ["{}"], {})
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        load_export(tmp_path / "model")
    with pytest.raises(UserError, match="does not exist"):
        load_export(tmp_path / "nothing")


def test_random_weights_are_the_same_everywhere_and_leave_the_generator_alone(tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, two = tiny_clip(tmp_path), tiny_clip(tmp_path)
    assert one.hash == two.hash
    assert torch.equal(torch.rand(3), expected)


def test_weights_load_from_local_safetensors_and_torch_files(clip, tmp_path):
    from safetensors.torch import save_file

    name = tiny_clip_config(tmp_path).name
    state = {key: tensor + 0.01 for key, tensor in clip.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    torch.save(state, tmp_path / "weights.pt")
    one, two = (
        load_clip(ClipConfig(name, str(tmp_path / file)))
        for file in ("weights.safetensors", "weights.pt")
    )
    assert one.hash == two.hash != clip.hash


def test_cutting_the_padding_leaves_text_features_as_they_are(clip):
    tokens = clip.tokenize(["a dog", "a photo of a very long name of a thing"])
    torch.testing.assert_close(clip.encode_text(tokens), clip.model.encode_text(tokens))
    assert not torch.allclose(*clip.encode_text(tokens))


@pytest.mark.parametrize(
    "config, sentence",
    [
        (ClipConfig("ViT-Z-99", "random"), "is not an open_clip model"),
        (ClipConfig("ViT-B-16", "no-such-tag"), "neither a file nor a tag of ViT-B-16"),
        (ClipConfig("missing.json", "random"), "not a readable open_clip model config"),
        (ClipConfig("RN50", "random"), "not an open_clip VisionTransformer"),
    ],
)
def test_clips_that_cannot_be_loaded_say_why(config, sentence):
    with pytest.raises(UserError, match=sentence):
        load_clip(config)


def test_weights_of_another_model_and_pickles_are_refused(clip, tmp_path):
    name = tiny_clip_config(tmp_path).name
    torch.save({"visual.proj": torch.zeros(2)}, tmp_path / "other.pt")
    (tmp_path / "code.pt").write_bytes(
        b"\x80\x02cos\nsystem\nq\x00."
    )  # a pickle that names os.system
    for file in ("other.pt", "code.pt"):
        with pytest.raises(UserError, match="does not hold the weights"):
            load_clip(ClipConfig(name, str(tmp_path / file)))
