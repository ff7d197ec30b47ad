"""Text features: the prompt ensemble, bounded batches, resuming, and refusing what does not belong
together.
"""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from c2srt import text
from c2srt.backbone.ensemble import count_cut, embed
from c2srt.backbone.prompts import check_templates, prompts_of
from c2srt.cluster.cli import main
from c2srt.errors import UserError
from c2srt.files import write_json
from c2srt.opened import read_json
from c2srt.relations.neighbours import Neighbours
from c2srt.relations.table import save
from c2srt.text import load_text
from c2srt.vocabulary import Vocabulary
from tests.tiny import tiny_clip, tiny_clip_config

NAMES = ("Dog", "Isle of man tt", "hot_dog", "Spring", "Spring", "{}", "Sprenger's tulip")
VOCABULARY = Vocabulary(tuple(f"/m/{row}" for row in range(len(NAMES))), NAMES, 5)
TEMPLATES = ["a photo of a {}.", "there is a {} in the scene.", "{}"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def work(tmp_path):
    VOCABULARY.save(tmp_path / "shards")
    tiny_clip_config(tmp_path)
    return tmp_path


def run_text(work, *arguments: str) -> int:
    return main(
        [
            "text",
            f"work={work}",
            f"clip.name={work}/tiny.json",
            "clip.pretrained=random",
            *arguments,
        ]
    )


def test_a_feature_is_the_normalised_mean_of_normalised_prompts(clip):
    features = embed(clip, list(NAMES), TEMPLATES)
    for row, name in enumerate(NAMES):
        prompts = [template.replace("{}", name.replace("_", " ")) for template in TEMPLATES]
        each = torch.cat(
            [normalize(clip.encode_text(clip.tokenize([prompt])), dim=-1) for prompt in prompts]
        )
        torch.testing.assert_close(features[row], normalize(each.mean(0), dim=0), atol=2e-6, rtol=0)
    assert features.dtype == torch.float32 and features.shape == (len(NAMES), clip.width)


def test_normalising_each_prompt_first_matters(clip):
    """The test above could not tell the two orders apart if all embeddings had one length."""
    raw = clip.encode_text(clip.tokenize(prompts_of(["Dog"], TEMPLATES)))
    assert (normalize(raw.mean(0), dim=0) - embed(clip, ["Dog"], TEMPLATES)[0]).abs().max() > 1e-5


@pytest.mark.parametrize("batch", [1, 2, 4, 7, 1000])
def test_the_batch_changes_memory_only(clip, batch, monkeypatch):
    sizes = []
    encode = type(clip).encode_text
    monkeypatch.setattr(
        type(clip),
        "encode_text",
        lambda self, tokens: (sizes.append(len(tokens)), encode(self, tokens))[1],
    )
    features = embed(clip, list(NAMES), TEMPLATES, batch)
    assert max(sizes) <= batch and sum(sizes) == len(NAMES) * len(TEMPLATES)
    torch.testing.assert_close(features, embed(clip, list(NAMES), TEMPLATES), atol=2e-6, rtol=0)


def test_prompts_keep_names_as_they_are_except_underscores():
    prompts = prompts_of(["hot_dog", "Sprenger's {}"], ["a {}.", "{}"])
    assert prompts == ["a hot dog.", "hot dog", "a Sprenger's {}.", "Sprenger's {}"]


def test_names_too_long_for_the_tower_are_counted_exactly(clip):
    # 16 tokens: start, end and 14 words; the template adds 2 words.
    names = [" ".join(["dog"] * words) for words in (1, 11, 12, 13, 40)]
    assert count_cut(clip, names, ["{}", "a photo {}"]) == 2
    assert count_cut(clip, names, ["{}"]) == 1


@pytest.mark.parametrize("templates", [[], ["a photo"], ["{} and {}"], [3]])
def test_bad_templates_are_refused(templates):
    with pytest.raises(UserError):
        check_templates(templates)


def test_the_verb_writes_features_with_their_origin(work, clip, capsys):
    assert run_text(work) == 0
    content = read_json(work / "text/text.json", "")
    assert (
        content["made_from"]["vocabulary"] == VOCABULARY.hash
        and content["made_from"]["clip"] == clip.hash
    )
    assert len(content["made_from"]["templates"]) > 4 and {"torch", "open_clip_torch"} <= set(
        content["versions"]
    )
    features = load_text(work / "text", VOCABULARY, clip.hash)
    torch.testing.assert_close(
        features, embed(clip, list(NAMES), content["made_from"]["templates"]), atol=2e-6, rtol=0
    )
    assert torch.equal(features[3], features[4])  # one name, two categories
    assert sorted(path.name for path in (work / "text").iterdir()) == [
        "text.json",
        "text.safetensors",
    ]


def test_the_same_command_again_does_nothing_and_other_templates_rebuild(work, capsys):
    assert run_text(work, "templates=simple") == 0
    path = work / "text/text.safetensors"
    before, content = path.stat().st_mtime_ns, path.read_bytes()
    assert run_text(work, "templates=simple") == 0
    assert path.stat().st_mtime_ns == before and "up to date" in capsys.readouterr().out
    assert run_text(work, 'templates=["a drawing of a {}."]') == 0
    assert path.read_bytes() != content
    path.write_bytes(content)  # damaged: not the features that text.json describes
    with pytest.raises(UserError, match="make it again with `c2srt text`"):
        load_text(work / "text", VOCABULARY)
    assert run_text(work, "templates=simple") == 0
    assert path.read_bytes() == content


def test_a_killed_run_goes_on_with_what_is_missing(work, monkeypatch):
    assert run_text(work, "block=2", f"out={work}/undisturbed") == 0
    embedded, literal = [], text.embed

    def killed_after_two(clip, names, *rest):
        if len(embedded) == 2:
            raise KeyboardInterrupt
        embedded.append(names)
        return literal(clip, names, *rest)

    monkeypatch.setattr(text, "embed", killed_after_two)
    assert run_text(work, "block=2") == 130
    assert not (work / "text/text.json").exists() and len(embedded) == 2
    monkeypatch.setattr(
        text,
        "embed",
        lambda clip, names, *rest: (embedded.append(names), literal(clip, names, *rest))[1],
    )
    assert run_text(work, "block=2") == 0
    assert embedded == [
        ["Dog", "Isle of man tt"],
        ["hot dog", "Spring"],
        ["{}", "Sprenger's tulip"],
    ]
    assert (work / "text/text.safetensors").read_bytes() == (
        work / "undisturbed/text.safetensors"
    ).read_bytes()


def test_features_of_another_vocabulary_or_clip_are_refused(work, clip):
    with pytest.raises(UserError, match="text.json does not exist: make it with `c2srt text`"):
        load_text(work / "text", VOCABULARY)
    assert run_text(work, "templates=simple") == 0
    other = Vocabulary(VOCABULARY.mids, NAMES, 4)
    with pytest.raises(UserError, match="was made for vocabulary .* rebuild it with `c2srt text`"):
        load_text(work / "text", other)
    with pytest.raises(UserError, match="was made by CLIP .* rebuild it with `c2srt text`"):
        load_text(work / "text", VOCABULARY, "another")
    write_json(work / "text/text.json", {"by": "hand"})
    with pytest.raises(UserError, match=r"is not what it should be \(made_from: field required\)"):
        load_text(work / "text", VOCABULARY)


# --- smoothed by a graph


def graph_of(folder, neighbours) -> None:
    table = np.array(neighbours, np.int32)
    graph = Neighbours(table, np.ones(table.shape, np.float32))
    made_from = {"kind": "mined", "vocabulary": VOCABULARY.hash, "neighbours": table.shape[1]}
    save(folder, graph, VOCABULARY, made_from, {})


def test_smoothed_features_are_the_means_with_the_neighbours(work, capsys):
    neighbours = [[1, 2], [-1, -1], [0, -1], [0, 1], [-1, -1], [3, 0], [0, 4]]
    graph_of(work / "graph", neighbours)
    own = f"out={work}/smoothed", f"relations={work}/graph"
    assert run_text(work) == 0 and run_text(work, "smooth=2", *own) == 0
    features, found = (load_text(work / name, VOCABULARY) for name in ("text", "smoothed"))
    for row, heard in enumerate(neighbours):
        mean = features[row] + sum(features[other] for other in heard if other >= 0)
        torch.testing.assert_close(found[row], normalize(mean, dim=0), atol=2e-6, rtol=0)
    plain, record = (
        read_json(work / name / "text.json", "")["made_from"] for name in ("text", "smoothed")
    )
    assert record == plain | {"smoothed": [2, record["smoothed"][1]]} and "smoothed" not in plain
    capsys.readouterr()
    for again, said in (("smooth=2", True), ("smooth=1", False), ("smooth=0", False)):
        assert run_text(work, again, *own) == 0
        assert ("is up to date" in capsys.readouterr().out) == said
    assert run_text(work, "smooth=2", *own) == 0
    graph_of(work / "graph", [*neighbours[:6], [0, 5]])
    assert run_text(work, "smooth=2", *own) == 0
    mean = features[6] + features[0] + features[5]
    found = load_text(work / "smoothed", VOCABULARY)[6]
    torch.testing.assert_close(found, normalize(mean, dim=0), atol=2e-6, rtol=0)


def test_nothing_is_smoothed_without_a_graph(work, capsys):
    assert run_text(work, "smooth=2", f"relations={work}/none") == 2
    assert "none/relations.json does not exist: make it with `c2srt relations" in (
        capsys.readouterr().err
    )
    assert run_text(work, "smooth=-1") == 2
    assert "smooth=-1 must be at least 0" in capsys.readouterr().err
