"""What `c2srt.load(…)` takes for a picture, and what it gives besides rankings."""

import io
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

import c2srt
from c2srt.backbone.clip import load_clip
from c2srt.backbone.config import ClipConfig
from c2srt.errors import UserError
from c2srt.predict import patches
from c2srt.predict.inputs import Encoded, read_image
from c2srt.predict.labels import Label
from tests.tiny import MODEL_CONFIG, tiny_export

NAMES = ("Dog", "Cat", "Tree", "Car", "Cloud", "Boat", "Zebra", "Dog")


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    tiny_export(folder / "run/model", folder, NAMES, ["a {}."])
    return folder / "run"


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "a photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def server(photo):
    """Answers every path that ends in .png with the photo, any other with 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = photo.read_bytes() if self.path.endswith(".png") else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def forms(path) -> dict:
    """One picture in every form that is taken."""
    pixels = np.array(Image.open(path))
    tensor = torch.from_numpy(pixels)
    data = path.read_bytes()
    return {
        "path": path,
        "text": str(path),
        "PIL": Image.open(path),
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "file": io.BytesIO(data),
        "open file": path.open("rb"),
        "encoded": Encoded(data),
        "HWC": pixels,
        "CHW": pixels.transpose(2, 0, 1),
        "HWC float": pixels / 255,
        "CHW float32": (pixels / 255).astype(np.float32).transpose(2, 0, 1),
        "tensor HWC": tensor,
        "tensor CHW": tensor.permute(2, 0, 1),
        "tensor float": tensor.permute(2, 0, 1) / 255,
        "tensor grad": (tensor.permute(2, 0, 1) / 255).requires_grad_(),
    }


def test_one_picture_in_every_form_is_one_picture(export, photo):
    predictor, given = c2srt.load(export), forms(photo)
    expected = read_image(photo)
    for name, form in given.items():
        if "file" not in name:  # it is read to its end below
            np.testing.assert_array_equal(read_image(form), expected, err_msg=name)
    singles = {name: predictor.predict(form, ["dog", "red car"]) for name, form in given.items()}
    assert {len(found) for found in singles.values()} == {1}
    assert {found[0].labels for found in singles.values()} == {singles["path"][0].labels}
    assert {name: found[0].image for name, found in singles.items() if name != "PIL"} == {
        name: str(photo) if name in ("path", "text", "open file") else "image"
        for name in given
        if name != "PIL"
    }


def test_batches_of_every_form(export, photo):
    """Four axes are several images, and so is a list of any forms."""
    predictor, pixels = c2srt.load(export), np.array(Image.open(photo))
    expected = predictor.predict(photo, ["dog"])[0].labels
    stacked = np.stack([pixels, pixels, pixels])
    batches = [
        stacked,
        stacked / 255,
        stacked.transpose(0, 3, 1, 2),
        torch.from_numpy(stacked),
        torch.from_numpy(stacked).permute(0, 3, 1, 2) / 255,
        [photo, pixels, photo.read_bytes()],
        (Image.open(photo), torch.from_numpy(pixels), io.BytesIO(photo.read_bytes())),
        (each for each in stacked),
    ]
    for batch in batches:
        found = predictor.predict(batch, ["dog"], batch=2)
        assert [dict(one.labels) for one in found] == [pytest.approx(dict(expected), abs=1e-5)] * 3
    assert predictor.predict(stacked[:0], ["dog"]) == [] == predictor.predict([], ["dog"])
    with pytest.raises(TypeError, match=r"not ndarray of shape \[3, 50, 70, 3\]"):
        predictor.predict([stacked], ["dog"])
    with pytest.raises(TypeError, match="not list"):
        predictor.predict([[photo]], ["dog"])


@pytest.mark.parametrize("shape", [(3, 9, 3), (3, 3, 3)])
def test_where_both_ends_could_be_channels_libraries_decide(shape):
    """An array is [H, W, C], a tensor [C, H, W]."""
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    np.testing.assert_array_equal(read_image(pixels), pixels)
    np.testing.assert_array_equal(read_image(torch.from_numpy(pixels)), pixels.transpose(1, 2, 0))


def test_grey_and_transparent_arrays():
    grey, clear = np.full((4, 5, 1), 9, np.uint8), np.zeros((4, 5, 4), np.uint8)
    assert (read_image(grey) == 9).all() and read_image(grey).shape == (4, 5, 3)
    assert (read_image(clear) == 255).all()


def test_wrong_values_name_what_is_wrong(photo):
    for given, words in (
        (np.full((4, 4, 3), 255.0), "with values from 255 to 255"),
        (np.full((4, 4, 3), -1.0), "with values from -1 to -1"),
        (np.zeros((4, 4, 3), bool), "of bool"),
        (torch.zeros(7, 5, 5), r"Tensor of shape \[7, 5, 5\]"),
        (io.StringIO("a.jpg"), "reads text: open it with 'rb'"),
    ):
        with pytest.raises(TypeError, match=words):
            read_image(given)


def test_urls_are_read_as_files_are(export, photo, server):
    predictor = c2srt.load(export)
    found = predictor.predict([f"{server}/a.png?x=1&y=.png", f"{server}/gone"], ["dog"])
    assert found[0].labels == predictor.predict(photo, ["dog"])[0].labels
    assert found[0].image == f"{server}/a.png?x=1&y=.png"
    assert found[1].error == "cannot be fetched: missing (HTTP 404)"


def test_embeddings_are_unit_rows_of_the_joint_space(export, photo):
    predictor = c2srt.load(export)
    images = predictor.embed_images([photo, np.array(Image.open(photo)), photo], batch=2)
    text = predictor.embed_text(["dog", "red car", "Dog"])
    for rows in (images, text):
        assert rows.shape == (3, 16) and rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(text[0], text[2])
    exported = predictor.model.exported
    np.testing.assert_array_equal(text[0], exported.graph.text[0].numpy())
    pixels = predictor.read(photo)[1][None]
    tower = F.normalize(exported.model.tower(exported.model.pixels(pixels))[1], dim=-1)
    np.testing.assert_allclose(images[0], tower[0].numpy(), atol=1e-6)
    assert predictor.embed_images([]).shape == (0, 16)
    with pytest.raises(ValueError, match="gone.jpg: no such file"):
        predictor.embed_images(["gone.jpg"])


def test_patch_scores_add_up_to_what_the_picture_adds(export, photo, monkeypatch):
    """Integrated gradients' completeness: with many steps, the label's pooled cosine of the picture
    less that of its mean colour, each less the vocabulary's mean.
    """
    monkeypatch.setattr(patches, "STEPS", 400)
    predictor = c2srt.load(export)
    found = predictor.patch_scores(photo, "Zebra")
    model, pixels = predictor.model, predictor.read(photo)[1][None]
    text = torch.from_numpy(predictor.embed_text(["Zebra"]))[0]
    picture = model.pixels(pixels)
    flat = picture.mean((2, 3), keepdim=True).expand_as(picture)
    features = [patches.pooled(*model.tower(x), text, model.pooling()) for x in (picture, flat)]
    with_, without = (F.normalize(one, dim=-1)[0] @ (text - model.common()) for one in features)
    assert found.scores.shape == (4, 4) and found.scores.dtype == np.float32
    # the pooling is chosen anew at each step: a step of the path where it changes costs exactness
    assert found.scores.sum() == pytest.approx((with_ - without).item(), abs=0.05)
    assert abs((with_ - without).item()) > 0.1


def test_patches_are_cut_where_the_grid_has_them():
    """A tower that reads one patch alone: that one has everything."""
    picture = torch.rand(3, 32, 32)

    def tower(pixels):
        corner = pixels[:, :, 8:16, 24:32].mean((2, 3))
        return corner[:, None], corner + 0.5

    text = F.normalize(torch.tensor([1.0, -2.0, 0.5]), dim=0)
    scores = patches.patch_map(tower, picture, text, None, None, (4, 4))
    assert np.argwhere(scores).tolist() == [[1, 3]]


def test_boxes_lie_in_the_picture_round_what_speaks_for_the_label(export, photo):
    """The grid covers the centred square of 50 × 70 pixels: columns 10 to 60."""
    found = c2srt.load(export).patch_scores(photo, "red car")
    np.testing.assert_allclose(found.area, (10, 0, 60, 50), atol=1)
    positive, chosen = found.scores.clip(0), np.sort(found.scores[found.chosen])
    assert chosen.sum() >= positive.sum() / 2 > chosen[1:].sum()  # as few as reach half
    boxes = found.boxes()
    assert boxes == sorted(boxes, key=lambda box: -box.share)
    assert sum(box.share for box in boxes) == pytest.approx(chosen.sum() / positive.sum(), abs=1e-5)
    for box in boxes:
        assert 9 <= box.left < box.right <= 61 and 0 <= box.top < box.bottom <= 50
    nothing = patches.PatchScores(-np.ones((4, 4), np.float32), found.area)
    assert nothing.boxes() == [] and not nothing.chosen.any()


@pytest.mark.parametrize("dtype", ["bf16", torch.float16])
def test_other_precisions_rank_nearly_alike(export, photo, dtype):
    full, low = c2srt.load(export), c2srt.load(export, device="cpu", dtype=dtype)
    expected = dict(full.predict(photo, topk=None)[0].labels)
    found = dict(low.predict(photo, topk=None)[0].labels)
    assert found.keys() == expected.keys()
    # random heads amplify what rounding (2⁻⁸) does; the scale is 8
    assert max(abs(found[name] - expected[name]) for name in found) < 0.5
    assert low.embed_images(photo).dtype == np.float32
    assert np.isfinite(low.patch_scores(photo, "dog").scores).all()


def test_devices_and_precisions_that_are_none(export):
    for settings, sentence in (
        ({"device": "gpu"}, "none of auto, cpu, cuda"),
        ({"device": "cuda:99"}, "device=cuda:99, but torch finds"),
        ({"device": "mps"}, "no Apple GPU here"),
        ({"dtype": "int8"}, "precision=int8 is none of fp32, bf16, fp16"),
        ({"dtype": torch.int8}, "none of fp32"),
    ):
        with pytest.raises(UserError, match=sentence):
            c2srt.load(export, **settings)


def test_a_label_may_bring_its_own_prompts(export, photo):
    predictor = c2srt.load(export)
    prompted = Label("class 17", "17", ("a red car.", "one red car"))
    found = dict(predictor.predict(photo, [prompted, "dog"], topk=None)[0].labels)
    same = dict(predictor.predict(photo, [Label("red car", "", prompted.prompts)])[0].labels)
    assert found["class 17"] == pytest.approx(same["red car"], abs=1e-5)
    assert found["dog"] == pytest.approx(
        dict(predictor.predict(photo, ["dog"])[0].labels)["dog"], abs=1e-5
    )
    plain = dict(predictor.predict(photo, ["class 17"])[0].labels)
    assert abs(plain["class 17"] - found["class 17"]) > 1e-4


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["dog", 1], "1 is of type int, write it as text"),
        ([True], "True is of type bool"),
        ([2.5, "dog"], "2.5 is of type float"),
        (["dog\tcat"], r"has a control character \(U\+0009\)"),
        (["dog\x1b[31m"], r"has a control character \(U\+001B\)"),
        ({"dog": 1}, "list of at least one word"),
    ],
)
def test_bad_labels_get_one_sentence(export, photo, labels, sentence):
    with pytest.raises(UserError, match=sentence):
        c2srt.load(export).predict(photo, labels)


def test_the_version_is_the_installed_ones():
    code = "import c2srt, sys; print(c2srt.__version__); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    from importlib.metadata import version

    assert done.stdout.strip() == version("c2srt") == c2srt.__version__


def test_weights_of_another_model_of_the_same_shapes_are_refused(export, photo, tmp_path):
    """config.json of one, model.safetensors of another; an export made before carries no note."""
    for name in ("one", "other"):
        tiny_export(tmp_path / name, tmp_path, (*NAMES[:7], name), ["a {}."])
    one, other = (tmp_path / name / "model.safetensors" for name in ("one", "other"))
    one.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match="belongs to another model than the config.json beside it"):
        c2srt.load(tmp_path / "one")
    save_file(load_file(one), one)
    assert c2srt.load(tmp_path / "one").predict(photo)[0].labels


def test_weights_of_another_clip_are_refused(tmp_path):
    """A CLIP's config whose weights file is another model's."""
    (tmp_path / "tiny.json").write_text(json.dumps(MODEL_CONFIG))
    wider = MODEL_CONFIG | {"embed_dim": 24}
    (tmp_path / "wider.json").write_text(json.dumps(wider))
    clip = load_clip(ClipConfig(str(tmp_path / "tiny.json"), "random"))
    save_file(clip.state_dict(), tmp_path / "tiny.safetensors")
    found = ClipConfig(str(tmp_path / "wider.json"), str(tmp_path / "tiny.safetensors"))
    with pytest.raises(UserError, match="tiny.safetensors"):
        c2srt.load("clip", clip=found)
