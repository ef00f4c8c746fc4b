import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.keys import derive, normal, uniform
from trainer.data.order import Permutation, epoch_order
from trainer.data.plan import FixedPlan, micro_batches, share
from trainer.data.prefetch import Prefetcher


@given(st.integers(1, 3000), st.integers(0, 2**63))
def test_an_epoch_holds_every_sample_once(size, key):
    assert sorted(Permutation(size, key).slice(0, size)) == list(range(size))


@given(st.integers(1, 500), st.data())
def test_a_slice_is_the_same_whoever_asks(size, data):
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    order = epoch_order(size, 1, 2)
    assert np.array_equal(order.slice(0, size)[start:stop], order.slice(start, stop))


def test_orders_differ_by_epoch_and_seed():
    orders = [tuple(epoch_order(50, seed, epoch).slice(0, 50)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


def test_a_billion_samples_cost_no_memory():
    part = epoch_order(10**9, 7, 0).slice(500, 564)
    assert len(set(part.tolist())) == 64
    assert part.max() < 10**9


def test_the_order_is_frozen():
    # A change of these numbers makes old runs resume with other data.
    assert epoch_order(10, 42, 0).slice(0, 10).tolist() == FROZEN_ORDER
    assert derive(42, "order", 0) == FROZEN_KEY


FROZEN_ORDER = [9, 7, 4, 2, 3, 1, 5, 8, 0, 6]
FROZEN_KEY = 3217244187130958107


@pytest.mark.parametrize("world_size", [1, 2, 4, 7])
@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_shares_and_micro_batches_lose_and_repeat_nothing(world_size, accumulation):
    plan = FixedPlan(num_samples=103, batch_size=10, seed=3)
    seen = []
    for step in range(plan.num_steps(0)):
        batch = plan.batch(0, step)
        parts = [
            part for rank in range(world_size) for part in micro_batches(share(batch, rank, world_size), accumulation)
        ]
        assert np.array_equal(np.concatenate(parts), batch)
        seen += batch.tolist()
    assert sorted(seen) == list(range(103))


def test_draws_depend_on_key_and_index_only():
    whole = uniform(9, np.arange(100), 5)
    assert np.array_equal(whole[[7, 3]], uniform(9, np.array([7, 3]), 5))
    assert not np.array_equal(whole, uniform(10, np.arange(100), 5))
    assert whole.min() >= 0.0
    assert whole.max() < 1.0


def test_draws_look_random():
    flat = uniform(1, np.arange(20_000), 4)
    assert abs(flat.mean() - 0.5) < 0.005
    assert np.abs(np.corrcoef(flat.T) - np.eye(4)).max() < 0.02
    gaussian = normal(1, np.arange(20_000), 4)
    assert abs(gaussian.mean()) < 0.01
    assert abs(gaussian.std() - 1.0) < 0.01


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_prefetch_keeps_the_order_and_ends(depth):
    assert list(Prefetcher(iter(range(20)), depth)) == list(range(20))


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_of_the_producer_comes_out_where_it_happened(depth):
    def items():
        yield 1
        raise KeyError("sample 7")

    batches = Prefetcher(items(), depth)
    assert next(batches) == 1
    with pytest.raises(KeyError, match="sample 7"):
        next(batches)


def test_closing_early_ends_the_thread():
    before = threading.active_count()
    batches = Prefetcher(iter(range(10**9)), 2)
    next(batches)
    batches.close()
    assert threading.active_count() == before
