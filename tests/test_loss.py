"""The O(C log P) ranking loss against the pairwise form."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

from c2srt.model.config import LossConfig
from c2srt.model.loss import distillation_loss, pairwise_ranking_loss, ranking_loss

RULES = [
    (unverified, reduction)
    for unverified in ("negative", "ignore")
    for reduction in ("violations", "sum")
]


def compare(scores: torch.Tensor, labels: torch.Tensor, config: LossConfig) -> None:
    mine, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    value, expected = (
        ranking_loss(mine, labels, config),
        pairwise_ranking_loss(theirs, labels, config),
    )
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-9)
    value.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("unverified, reduction", RULES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_equal_to_the_pairwise_form(unverified, reduction, data):
    images, categories = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
    value = st.sampled_from(
        [-8.0, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 3.0]
    )  # coarse: ties and exact margins are common
    scores = torch.tensor(
        data.draw(
            st.lists(
                st.lists(value, min_size=categories, max_size=categories),
                min_size=images,
                max_size=images,
            )
        )
    )
    label = st.sampled_from([-1, 0, 1])
    labels = torch.tensor(
        data.draw(
            st.lists(
                st.lists(label, min_size=categories, max_size=categories),
                min_size=images,
                max_size=images,
            )
        )
    )
    margin = data.draw(st.sampled_from([0.0, 0.5, 1.0, 100.0]))
    compare(
        scores.double(),
        labels,
        LossConfig(unverified=unverified, reduction=reduction, margin=margin),
    )


@pytest.mark.parametrize("unverified, reduction", RULES)
@pytest.mark.parametrize("fill", [1, -1, 0])
def test_images_without_pairs_contribute_nothing(unverified, reduction, fill):
    scores = torch.randn(2, 5, dtype=torch.double, requires_grad=True)
    labels = torch.full((2, 5), fill)
    value = ranking_loss(scores, labels, LossConfig(unverified=unverified, reduction=reduction))
    assert value.tolist() == [0, 0]
    assert torch.autograd.grad(value.sum(), scores)[0].abs().max() == 0


def test_it_punishes_negatives_above_positives():
    """Eq. 11 as printed would reward them; the sentence under it, and we, do the opposite."""
    config, labels = LossConfig(reduction="sum"), torch.tensor([[1, -1]])
    right, wrong = torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    assert ranking_loss(right, labels, config).item() == 0
    assert ranking_loss(wrong, labels, config).item() == 6


def test_at_open_images_width_in_float32():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 7186, generator=generator)
    labels = (torch.rand(2, 7186, generator=generator) < 0.005).long()
    for reduction in ("violations", "sum"):
        config = LossConfig(reduction=reduction)
        torch.testing.assert_close(
            ranking_loss(scores, labels, config),
            pairwise_ranking_loss(scores.double(), labels, config).float(),
            rtol=1e-5,
            atol=0,
        )


def test_distillation_norm_is_width_times_mean():
    student, teacher = torch.randn(3, 7), torch.randn(3, 7).half()
    mean = distillation_loss(student, teacher, LossConfig())
    norm = distillation_loss(student, teacher, LossConfig(distillation_reduction="norm"))
    torch.testing.assert_close(norm, 7 * mean)
    torch.testing.assert_close(mean, (student - teacher.float()).abs().mean(1))
