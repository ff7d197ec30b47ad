"""What a step asks of a device, counted on a CPU: a micro-batch reads no value, a step reads once;
and its sums are float32.
"""

from pathlib import Path

import pytest
import torch

from c2srt.check.case import Case
from c2srt.check.config import TINY
from c2srt.check.counting import counted
from c2srt.check.launches import count_step
from c2srt.train import adamw
from tests.ranks import run_ranks

SIZE, NEAR = 20_000, 0.002


def count(rank: int, folder: Path) -> list[tuple]:
    found = count_step(Case(folder, torch.device("cpu"), TINY))
    return [(one.totals, dict(one.reads), dict(one.launches)) for one in found]


def test_a_micro_batch_reads_nothing_and_a_step_once(tmp_path):
    (counts,) = run_ranks(1, count, tmp_path)
    (whole, reads, operators), (micro, none, _) = counts
    assert reads == {"tolist": 1} and none == {}
    assert operators["_foreach_copy_"] == 1  # an update was made, of bf16 weights
    assert micro[0] < whole[0] / 2 + 20 and whole[0] < 2 * micro[0] + 60


def test_what_counts_as_a_launch_and_as_a_read():
    rows, mask = torch.ones(4, 3), torch.tensor([True, False, True])
    with counted() as found:
        wide = rows.T.reshape(-1).double() + 1  # a view, a copy, a conversion, a sum
        if wide.sum() > 0:  # a sum, a comparison, a read
            _ = rows[0][mask], rows[:, :2].tolist(), wide.numpy()
    assert dict(found.launches) == {"clone": 1, "_to_copy": 1, "add": 1, "sum": 1, "gt": 1}
    assert dict(found.reads) == {"_local_scalar_dense": 1, "index": 1, "tolist": 1, "numpy": 1}
    assert found.totals == (5, 0, 4)


def optimizer() -> tuple[torch.nn.Parameter, adamw.GuardedAdamW]:
    """Of one vector, which is trained in bf16."""
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(SIZE))])
    made = adamw.GuardedAdamW([{"params": [model[0]], "lr": 1e-3}], 0.0)
    made.lower(model, torch.bfloat16)
    made.begin(torch.device("cpu"))
    return model[0], made


def gradients(count: int) -> torch.Tensor:
    """[count, SIZE] in float64: like ones, with noise as large as they are."""
    return 1 + torch.randn(count, SIZE, generator=torch.Generator().manual_seed(1)).double()


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def test_gradients_of_64_micro_batches_are_added_up_in_float32():
    parameter, made = optimizer()
    values = gradients(64)
    for value in values:
        parameter.grad = value.bfloat16()
        made.add()
        assert parameter.grad is None
    assert relative(made.sum, values.sum(0)) < NEAR
    plain = values[0].bfloat16()
    for value in values[1:]:
        plain += value.bfloat16()
    assert relative(plain, values.sum(0)) > NEAR  # what bf16 would make of them


def test_gradients_of_512_ranks_are_reduced_in_float32(monkeypatch):
    """In a ring, in the type in which the optimizer hands them to it."""
    values = gradients(512)

    def ring(own: torch.Tensor) -> None:
        for value in values[1:]:
            own += value.bfloat16().to(own.dtype)

    parameter, made = optimizer()
    monkeypatch.setattr(adamw.dist, "get_world_size", lambda: len(values))
    monkeypatch.setattr(adamw.dist, "all_reduce", ring)
    parameter.grad = values[0].bfloat16()
    made.add()
    made.step()
    assert relative(made.sum, values.mean(0)) < NEAR
    assert made._global_grad_norm == pytest.approx(float(values.mean(0).norm()), rel=NEAR)
    plain = values[0].bfloat16()
    ring(plain)
    assert relative(plain / len(values), values.mean(0)) > NEAR


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_update_that_is_not_finite_is_left_out_by_the_device(monkeypatch, value):
    monkeypatch.setattr(adamw.dist, "get_world_size", lambda: 1)
    parameter, made = optimizer()
    (master,) = made.masters
    steps = []
    with counted() as found:
        for gradient in (1.0, value, 1.0):
            parameter.grad = torch.full_like(parameter, gradient)
            made.add()
            made.step()
            steps.append((master.detach().clone(), made.state[master]["step"].clone()))
    assert not found.reads
    (first, _), (second, _), (third, _) = steps
    assert torch.equal(first, second) and third.max() < first.max() < 1
    assert [int(count) for _, count in steps] == [1, 1, 2]
    assert torch.equal(parameter, third.bfloat16())
