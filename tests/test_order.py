"""The sample order: every sample once an epoch, the same on any number of ranks and from any step,
mean over real samples.
"""

import itertools
from collections.abc import Iterable

import numpy as np
import pytest

from c2srt.errors import UserError
from c2srt.order import Order, global_order, shuffled_shards, streams_of, window_samples
from c2srt.permuted import permutation

COUNTS = [(7,), (5, 0, 9, 1), (13, 13, 13, 4), (1,) * 30, (0, 3, 0)]
STREAMS = [0, 1, 3, 512]
REAL = (10_000,) * 901
"""Open Images, in shards."""


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
@pytest.mark.parametrize("streams", STREAMS)
def test_every_sample_comes_once_an_epoch(counts, batch, window, streams):
    order = Order(counts, batch, window, 3, streams)
    everything = sorted(
        (shard, sample) for shard, count in enumerate(counts) for sample in range(count)
    )
    for epoch in (0, 1, 5):
        assert sorted(map(tuple, global_order(order, [epoch]).tolist())) == everything


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize(
    "world, micro_batch", [(1, 24), (1, 4), (2, 3), (3, 8), (4, 2), (8, 3), (8, 1)]
)
@pytest.mark.parametrize("streams", STREAMS)
def test_the_order_is_the_same_on_any_number_of_ranks(counts, world, micro_batch, streams):
    order = Order(counts, 24, 2, 0, streams)
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


@pytest.mark.parametrize("streams", STREAMS)
def test_any_step_can_be_computed_on_its_own(streams):
    """Resuming needs nothing but the step: asked backwards, a fresh object gives what a run from
    the start gave.
    """
    order, again = (Order((20, 31, 8, 44), 16, 2, 7, streams) for _ in range(2))
    streams_of.cache_clear()
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


def test_the_order_in_streams_is_fixed_for_ever():
    order = Order((3, 2, 4), 4, 2, 0, 2)
    assert global_order(order, [1]).tolist() == [
        [2, 2],
        [1, 1],
        [0, 0],
        [2, 3],
        [1, 0],
        [2, 0],
        [0, 2],
        [0, 1],
        [2, 1],
    ]


def test_a_permutation_is_uniform():
    """Each of the 24 orders of 4 items comes up equally often (chi-squared, 23 degrees of freedom,
    p ≈ 1e-4).
    """
    found = [tuple(permutation(4, 0, epoch)) for epoch in range(4800)]
    counts = np.array([found.count(order) for order in itertools.permutations(range(4))])
    assert ((counts - 200) ** 2 / 200).sum() < 56


# --- streams


def taken(order: Order, node: int, nodes: int, steps: Iterable[int]) -> set[int]:
    """The shards of which node `node` of `nodes` takes a sample in these steps."""
    start, stop = (order.batch * edge // nodes for edge in (node, node + 1))
    found = [order.positions(step, start, stop) for step in steps]
    return set(np.concatenate([p.shard[p.weight > 0] for p in found]).tolist())


@pytest.mark.parametrize("nodes", [3, 48, 64, 96])
def test_each_node_reads_its_own_shards_in_every_epoch(nodes):
    """Each at most twice its share; at 64 nodes at most a 32nd of all."""
    order = Order((60,) * 901, 512, 16, 0, 512)
    epochs = [
        range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        for epoch in (0, 3)
    ]
    for node in (0, nodes - 1):
        first, later = (taken(order, node, nodes, steps) for steps in epochs)
        assert first == later
        assert len(first) <= min(2 * 901 / nodes, 901 / 32 if nodes == 64 else 901)


def test_a_node_of_64_reads_a_32nd_of_open_images():
    order = Order(REAL, 512, 16, 0, 512)
    steps = range(0, order.steps_per_epoch, 35)
    assert len(taken(order, 63, 64, steps)) <= 901 / 32
    assert len(taken(Order(REAL, 512, 16), 63, 64, steps)) > 0.9 * 901


def alike(order: Order, steps: int, pairs: str) -> float:
    """The share of pairs of samples that are of one shard: neighbours in the order, or any two of a
    batch, or one of a batch and one of the next.
    """
    shards = [order.positions(step, 0, order.batch).shard for step in range(steps)]
    if pairs == "neighbours":
        line = np.concatenate(shards)
        return float((line[1:] == line[:-1]).mean())
    counts = np.stack([np.bincount(batch, minlength=len(order.counts)) for batch in shards])
    if pairs == "of a batch":
        return float((counts * (counts - 1)).sum(1).mean() / (order.batch * (order.batch - 1)))
    return float((counts[1:] * counts[:-1]).sum(1).mean() / order.batch**2)


@pytest.mark.parametrize("batch", [64, 512])
@pytest.mark.parametrize("pairs", ["neighbours", "of a batch", "of a batch and the next"])
def test_what_stands_together_is_no_more_alike_than_in_windows(batch, pairs):
    """Two standard deviations of a count of neighbours, at the rate of the windows."""
    steps = 16_384 // batch
    usual = alike(Order(REAL, batch, 16), steps, pairs)
    found = alike(Order(REAL, batch, 16, 0, 512), steps, pairs)
    assert found < usual + 2 * (usual / (steps * batch)) ** 0.5


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


def test_a_rank_of_eight_keeps_its_streams_in_little_memory():
    import tracemalloc

    order = Order(REAL, 64, 16, 0, 512)
    tracemalloc.start()
    for step in range(3):
        order.positions(step, 8, 16)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6


def test_nothing_to_train_on_is_refused():
    with pytest.raises(UserError, match="no sample"):
        Order((0, 0), 4)
    with pytest.raises(UserError, match="at least 1"):
        Order((4,), 0)
    with pytest.raises(UserError, match="at least 0"):
        Order((4,), 4, streams=-1)
