"""`c2srt evaluate` from arrays."""

import numpy as np
import polars as pl
import pytest

from tests.evaluated import evaluate, results
from tests.test_metrics import slow_dense, slow_per_class, slow_qks

# From arrays
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def arrays(tmp_path):
    random = np.random.default_rng(0)
    labels = random.choice([-1, 0, 1], (50, 12), p=[0.2, 0.6, 0.2]).astype(np.int8)
    return {
        "scores": random.normal(size=(50, 12)) + labels,
        "labels": labels,
        "seen": np.arange(12) < 8,
    }


def save(tmp_path, arrays) -> list[str]:
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    return [f"{name}={tmp_path / name}.npy" for name in arrays]


def test_a_perfect_map_of_two_categories_gets_a_warning(tmp_path, capsys):
    """As an interval over images cannot show: [100, 100] of two categories is no certainty."""
    random = np.random.default_rng(0)
    labels = random.choice([-1, 1], (200, 40)).astype(np.int8)
    labels[:, 5] = np.abs(labels[:, 5])
    arrays = {
        "scores": labels + random.random(labels.shape) / 2,
        "labels": labels,
        "seen": np.arange(40) < 38,
    }
    assert evaluate(*save(tmp_path, arrays), "topk=[2]", f"out={tmp_path}/out") == 0
    found, printed = results(tmp_path / "out"), capsys.readouterr().out
    assert found["zsl"]["mAP"]["per_class"] == 1 and found["zsl"]["ci95"]["mAP"]["per_class"] == [
        1,
        1,
    ]
    few, alone = found["warnings"]
    assert (
        few.startswith("ZSL is measured over 2 categories and ")
        and "an interval over the images, however narrow" in few
    )
    assert (
        alone
        == "1 of the 40 categories of GZSL with a positive have no verified negative: their AP"
        " is 1 "
        "whatever the model"
    )
    assert f"warning: {few}" in printed and f"warning: {alone}" in printed
    arrays["seen"] = np.arange(40) < 10
    labels[0, 5] = -1
    assert evaluate(*save(tmp_path, arrays), "topk=[2]", f"out={tmp_path}/enough") == 0
    assert (
        results(tmp_path / "enough")["warnings"] == [] and "warning" not in capsys.readouterr().out
    )


def test_arrays_give_the_documented_file(tmp_path, arrays, capsys):
    assert evaluate(*save(tmp_path, arrays), "topk=[2,3]", f"out={tmp_path}/out") == 0
    found = results(tmp_path / "out")
    assert (
        found["checkpoint"] is None
        and found["vocabulary"] is None
        and found["isr"] is None
        and found["images"] == 50
    )
    for label_set, columns in (("zsl", ~arrays["seen"]), ("gzsl", np.ones(12, bool))):
        values = found[label_set]
        for protocol, slow in (
            ("per_class", slow_per_class),
            ("dense", slow_dense),
            ("qks", slow_qks),
        ):
            expected = np.nanmean(slow(arrays["scores"], arrays["labels"], columns))
            assert values["mAP"][protocol] == pytest.approx(expected, rel=1e-12)
        assert set(values["mAP"]) == {"per_class", "lesa", "biam_legacy", "qks", "dense"}
        for k in (2, 3):
            p, r, f1 = (values[f"F1@{k}"][name] for name in ("P", "R", "F1"))
            assert f1 == pytest.approx(2 * p * r / (p + r)) and k * p / r == pytest.approx(
                values["positives_per_image"]
            )
        for name in ("mAP", "F1@2", "F1@3", "F1@2 annotated", "F1@3 annotated"):
            assert all(0 <= low < high <= 1 for low, high in values["ci95"][name].values())
    printed = capsys.readouterr().out
    assert (
        "mAP per_class" in printed
        and "95 % interval over the choice of test images, 200 draws" in printed
    )
    low, high = found["gzsl"]["ci95"]["mAP"]["per_class"]
    assert (
        f"{100 * found['gzsl']['mAP']['per_class']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        in printed
    )
    assert found["bootstrap"] == {"draws": 200, "seed": 0}
    assert found["made_from"]["versions"] == {"biam_legacy": 2}
    table = pl.read_csv(tmp_path / "out" / "per_category.csv")
    assert table["positives"].to_list() == (arrays["labels"] == 1).sum(0).tolist()
    assert table["gzsl_per_class"].mean() == pytest.approx(found["gzsl"]["mAP"]["per_class"])


def test_small_blocks_give_the_same_bits(tmp_path, arrays, monkeypatch):
    evaluate(*save(tmp_path, arrays), "topk=[2]", f"out={tmp_path}/whole")
    monkeypatch.setattr("c2srt.evaluation.arrays.BLOCK_SCORES", 90)
    evaluate(*save(tmp_path, arrays), "topk=[2]", f"out={tmp_path}/blocks", "workers=3")
    assert (tmp_path / "whole/results.json").read_bytes() == (
        tmp_path / "blocks/results.json"
    ).read_bytes()


def test_only_the_protocols_asked_for(tmp_path, arrays):
    assert (
        evaluate(
            *save(tmp_path, arrays), "topk=[2]", f"out={tmp_path}/out", "protocols=[lesa,per_class]"
        )
        == 0
    )
    found = results(tmp_path / "out")
    assert (
        set(found["zsl"]["mAP"]) == {"per_class", "lesa"} and "versions" not in found["made_from"]
    )
    assert not [name for name in found["zsl"] if name.endswith("annotated")]
    assert (
        evaluate(
            *save(tmp_path, arrays),
            "topk=[2]",
            f"out={tmp_path}/none",
            "protocols=[lesa]",
            "bootstrap=0",
        )
        == 0
    )
    assert (
        results(tmp_path / "none")["bootstrap"] is None
        and "ci95" not in results(tmp_path / "none")["zsl"]
    )


def test_a_label_set_without_positives_is_null_and_said(tmp_path, arrays, capsys):
    arrays["labels"][:, 8:] = np.minimum(arrays["labels"][:, 8:], 0)
    assert evaluate(*save(tmp_path, arrays), "topk=[2]", f"out={tmp_path}/out") == 0
    assert results(tmp_path / "out")["zsl"]["mAP"]["per_class"] is None
    assert results(tmp_path / "out")["gzsl"]["mAP"]["per_class"] > 0
    assert "ZSL cannot be measured" in capsys.readouterr().out


def test_columns_without_a_label_are_said_beside_the_f1_of_qks(tmp_path, arrays, capsys):
    """Three of the four unseen columns have a label: at K = 4 QKS's F1 cannot be measured."""
    arrays["labels"][:, 9] = 0
    assert evaluate(*save(tmp_path, arrays), "topk=[2,4]", f"out={tmp_path}/out") == 0
    found, printed = results(tmp_path / "out"), capsys.readouterr().out
    nothing = {"P": None, "R": None, "F1": None}
    assert found["zsl"]["categories"]["annotated"] == 3
    assert found["zsl"]["F1@4 annotated"] == found["zsl"]["ci95"]["F1@4 annotated"] == nothing
    assert found["zsl"]["F1@2 annotated"]["P"] > 0 and found["zsl"]["F1@4"]["P"] > 0
    assert "ranks columns with a verified label only, 3 of 4 and 11 of 12" in printed


@pytest.mark.parametrize(
    "change, arguments, sentence",
    [
        (
            lambda a: a["scores"].__setitem__((31, 2), np.nan),
            [],
            "score of image 31 for category 2 is nan",
        ),
        (lambda a: a["scores"].__setitem__((31, 2), -np.inf), [], "must be finite"),
        (lambda a: a["labels"].__setitem__((3, 2), 2), [], "labels are −1"),
        (lambda a: a.update(labels=a["labels"][1:]), [], r"scores \[50, 12\], labels \[49, 12\]"),
        (lambda a: a.update(seen=a["seen"][1:]), [], "disagree"),
        (lambda a: a.update(seen=a["seen"] * 2), [], "must be [C] of true"),
        (lambda a: a.update(scores=a["labels"]), [], "scores must be floats"),
        (lambda a: a.update(scores=np.array([{}])), [], "not a .npy file"),
        (
            lambda a: a.update(labels=np.minimum(a["labels"], 0)),
            [],
            "none of the 50 images has a positive label",
        ),
        (lambda a: a.update(labels=np.maximum(a["labels"], 0)), [], "holds no −1"),
        (lambda a: None, ["topk=[5]"], "K = 5 does not fit the 4 categories of ZSL"),
        (lambda a: None, ["topk=[0]"], "topk=[0] must be"),
        (lambda a: None, ["protocols=[map]"], "protocol 'map' is not one of"),
        (lambda a: None, ["bootstrap=10"], "must be 0 (no intervals) or at least 40"),
        (lambda a: None, ["labels=null"], "scores, labels and seen are needed"),
        (lambda a: None, ["seen=/nowhere.npy"], "seen=/nowhere.npy does not exist"),
    ],
)
def test_bad_arrays_get_one_sentence(tmp_path, arrays, capsys, change, arguments, sentence):
    change(arrays)
    status = evaluate(*save(tmp_path, arrays), "topk=[2]", f"out={tmp_path}/out", *arguments)
    message = capsys.readouterr().err
    assert status == 2 and sentence.replace("\\", "") in message and "Traceback" not in message
    assert not (tmp_path / "out").exists()
