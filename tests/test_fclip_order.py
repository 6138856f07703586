"""Order: the same for any number of processes, each row once an epoch, continued where it stopped."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fclip.config import DataConfig
from fclip.order import BatchOrder, shuffled

PLAIN = DataConfig(crop=1, aspect=1, flip=0, brightness=0, contrast=0)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    batch=st.integers(1, 5),
    world=st.integers(1, 4),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 99),
    window=st.integers(0, 40),
)
def test_processes_together_see_what_one_process_with_their_whole_batch_sees(rows, batch, world, epochs, seed, window):
    alone = list(BatchOrder(rows, batch * world, epochs, seed, window=window))
    parts = [list(BatchOrder(rows, batch, epochs, seed, rank, world, window=window)) for rank in range(world)]
    assert [[*chain(*step)] for step in zip(*parts, strict=True)] == alone


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 90),
    batch=st.integers(1, 6),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 99),
    window=st.integers(0, 90),
)
def test_every_epoch_is_a_permutation_with_the_odd_rows_dropped(rows, batch, epochs, seed, window):
    order = BatchOrder(rows, batch, epochs, seed, window=window)
    batches = list(order)
    assert len(batches) == len(order) == epochs * (rows // batch)
    for epoch in range(epochs):
        seen = [*chain(*batches[epoch * order.steps_per_epoch : (epoch + 1) * order.steps_per_epoch])]
        assert len(set(seen)) == len(seen) == rows // batch * batch
        assert all(index // rows == epoch for index in seen)


@pytest.mark.parametrize(("epochs", "steps"), [(0.01, 1), (0.4, 2), (1.4, 7), (2, 10)])
def test_a_part_of_an_epoch_is_its_first_batches(epochs, steps):
    assert list(BatchOrder(10, 2, epochs, seed=0)) == list(BatchOrder(10, 2, 2, seed=0))[:steps]


def test_epochs_and_seeds_differ():
    first, second = (step for step in BatchOrder(30, 30, 2, seed=0))
    (other,) = BatchOrder(30, 30, 1, seed=1)
    assert first != [i - 30 for i in second]
    assert first != other


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(6, 30), batch=st.integers(1, 6), epochs=st.integers(1, 3), data=st.data())
def test_a_resumed_order_continues_exactly_where_it_stopped(rows, batch, epochs, data):
    window = data.draw(st.integers(0, rows))
    whole = list(BatchOrder(rows, batch, epochs, seed=5, window=window))
    start = data.draw(st.integers(0, len(whole)))
    rest = BatchOrder(rows, batch, epochs, seed=5, start=start, window=window)
    assert list(rest) == whole[start:]
    assert len(rest) == len(whole) - start


def test_a_windowed_order_reads_few_runs_at_a_time_and_mixes_them():
    order = shuffled(10_000, np.random.default_rng(0), window=800)
    parts = order[: 12 * 800].reshape(12, 800)
    assert all(len(np.unique(part // 50)) == 16 for part in parts)  # sixteen runs of fifty neighbours
    first = np.concatenate(parts[:, :100])
    assert len(np.unique(first // 50)) > 150  # already the first hundred of a window come from nearly all of its runs
    assert np.corrcoef(np.arange(10_000), order)[0, 1] < 0.3
    assert (shuffled(50, np.random.default_rng(0), window=50) == np.random.default_rng(0).permutation(50)).all()
