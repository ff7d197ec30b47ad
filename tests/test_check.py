"""`c2srt check`: planted faults are found and named, a part that misbehaves costs itself only, a
second run does what is missing.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from c2srt import compose
from c2srt.check.case import bf16_fault, no_gpu, sentence
from c2srt.check.config import Config, from_words
from c2srt.check.kernels import excess
from c2srt.check.page import WIDTH, page
from c2srt.check.parts import PARTS, Part, chosen
from c2srt.check.run import run_parts
from c2srt.errors import UserError
from c2srt.pages import calibration_of, keep, kept, rows_of
from c2srt.plan.hardware import Cluster, calibrated
from tests.verbs import compose_verb, joined

ROOT = Path(__file__).parent.parent
PLANTED = {
    "isr.py": [
        (
            "    weights = weights / tl.sum(weights, 1)[:, None]\n",
            "    weights = 1.01 * weights / tl.sum(weights, 1)[:, None]\n",
        )
    ],
    "gat_kernels.py": [("total / norm[:, :, None]", "1.01 * total / norm[:, :, None]")],
    "gat.py": [
        (
            "    return grad_target, partials.sum(0), grad_logit",
            "    return grad_target, 1.01 * partials.sum(0), grad_logit",
        ),
    ],
}
FOUND = (
    "assignment, tiny, bf16",
    "assignment, tiny, fp32",
    "attention forward, tiny, bf16",
    "attention forward, tiny, fp32",
    "attention backward, tiny, bf16",
    "attention backward, tiny, fp32",
)


def part(name: str, limit_s: float = 60) -> Part:
    return Part(name, "quick", limit_s, f"tests.check_parts:{name}", f"a part that {name}")


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "check.jsonl").read_text().splitlines()]


def python(*words: str, **settings) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=500, **settings
    )


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The kernels part of a copy of the source with a fault of 1 % in each of three places."""
    root = tmp_path_factory.mktemp("planted")
    shutil.copytree(ROOT / "c2srt", root / "c2srt", ignore=shutil.ignore_patterns("__pycache__"))
    for name, places in PLANTED.items():
        path = root / "c2srt/model/kernels" / name
        text = path.read_text()
        for right, wrong in places:
            assert text.count(right) == 1, right
            text = text.replace(right, wrong)
        path.write_text(text)
    done = python(
        "-m",
        "c2srt.check",
        "gpu",
        "quick",
        "out=out",
        "parts=isr,gat",
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    return root / "out", done


@pytest.mark.skipif(torch.cuda.is_available(), reason="names the tiny sizes of a CPU")
def test_a_kernel_that_is_wrong_by_one_percent_is_named_with_shape_and_precision(planted):
    _, done = planted
    assert done.returncode == 1, done.stdout + done.stderr
    faults = [line for line in done.stdout.splitlines() if line.startswith("WRONG")]
    for name in FOUND:
        assert any(name in fault for fault in faults), (name, faults)
    assert any("grad_attention" in fault for fault in faults) and not any(
        "grad_source" in fault for fault in faults
    )


BARE = (
    "torch",
    "torch-geometric",
    "timm",
    "numpy",
    "pillow",
    "scipy",
    "pyarrow",
    "safetensors",
    "psutil",
)


def needed(name: str, found: set[str]) -> set[str]:
    """A distribution and all that it requires here."""
    if name not in found:
        found.add(name)
        for line in distribution(name).requires or ():
            if (wanted := Requirement(line)).marker is None or wanted.marker.evaluate(
                {"extra": ""}
            ):
                needed(wanted.name.lower(), found)
    return found


def test_it_needs_no_more_than_a_bare_gpu_machine_has(tmp_path):
    """tests/test_bare.py makes a real one, by hand; here all else is left out of the path."""
    names = set()
    for name in BARE:
        needed(name, names)
    assert (
        not {"pydantic", "annotated-types", "polars", "ray", "hydra-core", "open-clip-torch"}
        & names
    )
    site = tmp_path / "site"
    site.mkdir()
    for name in names:
        for file in distribution(name).files:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(distribution(name).locate_file(top).resolve())
    done = python(
        "-S",
        "-m",
        "c2srt.check",
        "gpu",
        "quick",
        f"out={tmp_path}/out",
        "parts=card,paths,head,step",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{site}"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(line["status"], line["why"]) for line in lines(tmp_path / "out")] == [
        ("ok", ""),
        ("ok", ""),
        ("ok", ""),
        ("skipped", "needs open_clip, pydantic, not installed here"),
    ]


def test_the_page_says_it_too_and_fits_a_screen(planted):
    out, _ = planted
    text = (out / "check.txt").read_text()
    assert (
        "WRONG: assignment, tiny, bf16" in text
        and "WRONG: attention forward, tiny, d = 24, bf16" in text
        and "WRONG: attention forward, tiny, d = 80, bf16" in text
    )
    assert (
        max(
            len(line)
            for line in text.splitlines()
            if not line.strip().startswith(("WRONG", "SKIPPED", "NOTE"))
        )
        <= WIDTH
    )
    content = json.loads((out / "check.json").read_text())
    assert {"card", "driver", "python", "torch", "triton", "commit", "source"} <= content[
        "machine"
    ].keys()
    assert [line["status"] for line in content["parts"]] == ["wrong", "wrong"]
    assert len(list(out.iterdir())) <= 8, "no more files come back from a lent machine"


def test_a_part_that_misbehaves_costs_itself_only(tmp_path, capsys):
    parts = [
        part("hangs", 0.5),
        part("good"),
        part("dies"),
        part("runs_out_of_memory"),
        part("wrong"),
        part("good"),
    ]
    parts[-1] = Part("last", "quick", 60, "tests.check_parts:good", "the last one")
    assert run_parts(Config(out=str(tmp_path)), parts) == 1
    found = {line["part"]: line for line in lines(tmp_path)}
    assert {name: line["status"] for name, line in found.items()} == {
        "hangs": "out of time",
        "good": "ok",
        "dies": "died",
        "runs_out_of_memory": "failed",
        "wrong": "wrong",
        "last": "ok",
    }
    assert found["hangs"]["rows"] == [{"what": "before it hangs", "figure": 1}], (
        "what was found before is kept"
    )
    assert "SIGKILL" in found["dies"]["why"] and found["dies"]["rows"]
    assert (
        found["runs_out_of_memory"]["why"]
        == "out of memory: CUDA out of memory. Tried to allocate 20.00 GiB."
    )
    printed = capsys.readouterr().out
    assert (
        "WRONG: assignment, ViT-B/16, bf16: A is off" in printed
        and "WRONG: hangs out of time" in printed
    )


def test_a_second_run_does_what_is_missing(tmp_path, capsys):
    parts = [
        part("good"),
        part("fails_once"),
        Part("absent", "quick", 60, "tests.check_parts:good", "cannot", ("no_such_package",)),
    ]
    assert run_parts(Config(out=str(tmp_path)), parts) == 1
    assert [line["status"] for line in lines(tmp_path)] == ["ok", "failed", "skipped"]
    assert lines(tmp_path)[2]["why"] == "needs no_such_package, not installed here"
    with (tmp_path / "check.jsonl").open("a") as file:
        file.write('{"part": "good", "status": "wro')  # a kill cut this line off
    (tmp_path / "mended").touch()
    capsys.readouterr()
    assert run_parts(Config(out=str(tmp_path)), parts) == 0
    assert "done before, ok" in capsys.readouterr().out
    whole = [
        json.loads(line)
        for line in (tmp_path / "check.jsonl").read_text().splitlines()
        if line.endswith("}")
    ]
    assert [(line["part"], line["status"]) for line in whole[3:]] == [
        ("fails_once", "ok"),
        ("absent", "skipped"),
    ]
    other = [{**line, "machine": {**line["machine"], "card": "another card"}} for line in whole]
    (tmp_path / "check.jsonl").write_text("".join(json.dumps(line) + "\n" for line in other))
    assert run_parts(Config(out=str(tmp_path)), parts[:1]) == 0
    assert len(lines(tmp_path)) == len(other) + 1, (
        "what another card showed says nothing of this one"
    )


def test_complaints_of_torch_become_a_sentence():
    told = (
        "CUDA initialization: The NVIDIA driver on your system is too old (found version 12040)."
        " Please update your GPU driver"
    )
    assert (
        no_gpu("13.0", [told])
        == "the NVIDIA driver (it is for CUDA 12.4) is too old for this torch (CUDA 13.0): update"
        " the "
        "driver, or take an older torch"
    )
    assert no_gpu(None, []) == "this torch is built without CUDA: install one with it"
    assert no_gpu("13.0", []) == "torch finds no GPU: see `nvidia-smi`"
    assert bf16_fault((7, 5)).startswith("compute capability 7.5 has no bf16") and not bf16_fault(
        (8, 0)
    )
    assert sentence(ValueError("first\nsecond")) == "ValueError: first"


@pytest.mark.parametrize(
    "dtype, off, wrong",
    [
        (torch.float32, 1.01, True),
        (torch.float32, 1.00001, False),
        (torch.bfloat16, 1.01, True),
        (torch.bfloat16, 1.0, False),
    ],
)
def test_one_percent_shows_in_a_single_head(dtype, off, wrong):
    want = torch.randn(50, 8, 16, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    got = want.clone()
    got[:, 3] *= off
    assert (excess(got.to(dtype), want) > 1) == wrong
    assert excess((got * torch.nan).to(dtype), want) == float("inf")


def test_words_and_keys():
    assert from_words(["gpu", "full", "out=x", "parts=[isr,gat]"]) == Config(
        "gpu", "full", "x", ["isr", "gat"]
    )
    assert joined(["check", "gpu", "full", "out=x"]) == [
        "check",
        "what=gpu",
        "length=full",
        "out=x",
    ]
    assert joined(["bench", "head", "batch=4"]) == ["bench", "what=head", "batch=4"]
    assert (
        compose.to_config(Config, compose_verb("check", ["what=gpu", "length=full"])).length
        == "full"
    )
    for words, said in (
        (["gpu", "slow"], "length=slow is neither"),
        (["cpu"], "what=cpu is none of"),
        (["gpu", "size=3"], "is not one of"),
        (["gpu", "quick", "more"], "'more' is not one of"),
    ):
        with pytest.raises(UserError, match=said):
            from_words(words)
    with pytest.raises(UserError, match="parts=ISR is not one of card, isr"):
        run_with_parts(["ISR"])
    assert [one.name for one in chosen("quick", [])] == [
        "card",
        "isr",
        "gat",
        "scores",
        "paths",
        "head",
        "step",
    ]
    assert (
        len(chosen("full", [])) == len(PARTS)
        and sum(one.limit_s for one in chosen("quick", [])) <= 180
    )
    assert sum(one.limit_s for one in PARTS) <= 180 + 360


def run_with_parts(names: list[str]) -> int:
    from c2srt.check.run import run

    return run(Config(parts=names))


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    done = python("-m", "c2srt.check", "gpu", "quick", f"out={tmp_path}/file/out", cwd=ROOT)
    assert (
        done.returncode == 2
        and done.stderr.startswith("c2srt check: cannot write")
        and len(done.stderr.splitlines()) == 1
    )


def test_kept_pages_are_read_by_plan_and_bench(tmp_path):
    out, folder = tmp_path / "out", tmp_path / "pages"
    out.mkdir()
    machine = {"card": "NVIDIA H200", "capability": "9.0"}
    line = {
        "part": "head",
        "status": "ok",
        "why": "",
        "seconds": 1.0,
        "rows": [{"what": "bf16, 64 images", "ms": 10.0}],
    }
    content = {"date": "2026-12-01T10:00:00", "machine": machine, "parts": [line]}
    (out / "check.json").write_text(json.dumps(content))
    (out / "check.txt").write_text(page([line], machine))
    (out / "calibration.json").write_text(
        json.dumps({"kind": "gpu", "values": {"vit_efficiency": 0.5}})
    )
    folder.mkdir()
    assert keep(out, folder).name == "2026-12-01-nvidia-h200"
    assert rows_of("head", folder) == [
        ("2026-12-01-nvidia-h200", "NVIDIA H200", {"what": "bf16, 64 images", "ms": 10.0})
    ]
    found = calibration_of("2026-12-01-nvidia-h200", folder)
    assert calibrated(Cluster(name="H200"), str(found)).vit_efficiency == 0.5
    assert kept(folder).keys() == {"2026-12-01-nvidia-h200"} and calibration_of(
        "here.json", folder
    ) == Path("here.json")
    with pytest.raises(UserError, match="is kept already"):
        keep(out, folder)
    (out / "check.json").write_text(json.dumps({**content, "machine": {"card": "a CPU"}}))
    with pytest.raises(UserError, match="made without a GPU"):
        keep(out, folder)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has real sizes and minutes of work")
def test_every_part_of_the_full_check_ends_well_on_a_cpu(tmp_path):
    done = python("-m", "c2srt.check", "gpu", "full", f"out={tmp_path}/out", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "out/check.json").read_text())
    assert {line["part"]: line["status"] for line in content["parts"]} == {
        one.name: "ok" for one in PARTS
    }
    cluster = (tmp_path / "out/cluster.yaml").read_text()
    values = json.loads((tmp_path / "out/calibration.json").read_text())["values"]
    assert f"vit_efficiency: {values['vit_efficiency']:.4g}" in cluster
