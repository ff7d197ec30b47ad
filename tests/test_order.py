"""The sample order: every sample once an epoch, the same on any number of ranks and from any step,
mean over real samples.
"""

import itertools

import numpy as np
import pytest

from c2srt.errors import UserError
from c2srt.order import Order, global_order, permutation, shuffled_shards, window_samples

COUNTS = [(7,), (5, 0, 9, 1), (13, 13, 13, 4), (1,) * 30, (0, 3, 0)]


def dealt(order: Order, step: int, world: int, micro_batch: int) -> list[np.ndarray]:
    """[world] (shard, sample, weight) of a step, as ranks take them: a run of the batch each,
    micro-batch by micro-batch.
    """
    share = order.batch // world
    ranks = []
    for rank in range(world):
        starts = range(rank * share, (rank + 1) * share, micro_batch)
        positions = [order.positions(step, start, start + micro_batch) for start in starts]
        ranks.append(
            np.concatenate([np.stack([p.shard, p.sample, p.weight], 1) for p in positions])
        )
    return ranks


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("batch", [1, 4, 24, 100])
@pytest.mark.parametrize("window", [1, 2, 16])
def test_every_sample_comes_once_an_epoch(counts, batch, window):
    order = Order(counts, batch, window, seed=3)
    everything = sorted(
        (shard, sample) for shard, count in enumerate(counts) for sample in range(count)
    )
    for epoch in (0, 1, 5):
        assert sorted(map(tuple, global_order(order, [epoch]).tolist())) == everything


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize(
    "world, micro_batch", [(1, 24), (1, 4), (2, 3), (3, 8), (4, 2), (8, 3), (8, 1)]
)
def test_the_order_is_the_same_on_any_number_of_ranks(counts, world, micro_batch):
    order = Order(counts, 24, 2)
    for step in range(2 * order.steps_per_epoch):
        one = dealt(order, step, 1, 24)[0]
        assert np.array_equal(np.concatenate(dealt(order, step, world, micro_batch)), one)


@pytest.mark.parametrize("counts, batch", itertools.product(COUNTS, [3, 24, 64]))
def test_the_weighted_mean_is_the_mean_over_real_samples(counts, batch):
    """mean(weight · loss) over micro-batches, accumulation and ranks, with any loss per sample."""
    order = Order(counts, batch, 2)
    loss = np.random.default_rng(0).random((len(counts), 16))
    seen = []
    for step in range(order.steps_per_epoch):
        positions = order.positions(step, 0, batch)
        real = positions.weight > 0
        losses = loss[positions.shard, positions.sample]
        np.testing.assert_allclose(
            (positions.weight * losses).mean(), losses[real].mean(), rtol=1e-6
        )
        np.testing.assert_allclose(positions.weight.mean(), 1, rtol=1e-6)
        padding = set(zip(positions.shard[~real], positions.sample[~real], strict=True))
        assert padding <= set(zip(positions.shard[real], positions.sample[real], strict=True))
        seen.append(real.sum())
    assert sum(seen) == order.samples


def test_any_step_can_be_computed_on_its_own():
    """Resuming needs nothing but the step: asked backwards, a fresh object gives what a run from
    the start gave.
    """
    order, again = Order((20, 31, 8, 44), 16, 2, 7), Order((20, 31, 8, 44), 16, 2, 7)
    forwards = [order.positions(step, 0, 16) for step in range(30)]
    for step in reversed(range(30)):
        positions = again.positions(step, 0, 16)
        assert np.array_equal(positions.shard, forwards[step].shard) and np.array_equal(
            positions.sample, forwards[step].sample
        )


def test_epochs_and_seeds_differ_and_samples_are_mixed():
    order = Order((100,) * 8, 32, 4)
    orders = [
        global_order(order, [0]),
        global_order(order, [1]),
        global_order(Order((100,) * 8, 32, 4, seed=1), [0]),
    ]
    assert not any(np.array_equal(one, other) for one, other in itertools.combinations(orders, 2))
    assert sorted(set(orders[0][:400, 0])) == sorted(
        shuffled_shards(order, 0)[:4]
    )  # the first window, and nothing else
    assert len(set(orders[0][:32, 0])) == 4  # all of its shards within one batch
    assert not np.array_equal(np.argsort(orders[0][:400, 1], kind="stable"), np.arange(400))


def test_the_order_is_fixed_for_ever():
    """Golden values: a run resumed under a newer version must go on in the same order."""
    assert permutation(8, 0, 0).tolist() == [3, 7, 6, 2, 0, 5, 4, 1]
    assert window_samples(Order((3, 2), 4, 2), 1, 0).tolist() == [
        [1, 0],
        [0, 2],
        [0, 0],
        [1, 1],
        [0, 1],
    ]


def test_a_permutation_is_uniform():
    """Each of the 24 orders of 4 items comes up equally often (chi-squared, 23 degrees of freedom,
    p ≈ 1e-4).
    """
    found = [tuple(permutation(4, 0, epoch)) for epoch in range(4800)]
    counts = np.array([found.count(order) for order in itertools.permutations(range(4))])
    assert ((counts - 200) ** 2 / 200).sum() < 56


def test_nine_million_samples_need_little_memory():
    """A step's cost does not grow with the data set: Open Images is 900 shards of 10,000."""
    import tracemalloc

    order = Order((10_000,) * 900, 1024, 16)
    tracemalloc.start()
    order.positions(order.steps_per_epoch * 2 + 4000, 0, 1024)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert order.steps_per_epoch == 8790
    assert peak < 20e6


def test_nothing_to_train_on_is_refused():
    with pytest.raises(UserError, match="no sample"):
        Order((0, 0), 4)
    with pytest.raises(UserError, match="at least 1"):
        Order((4,), 0)
