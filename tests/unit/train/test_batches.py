"""The batch plan covers the global batch once, whatever the ranks; the data order covers each epoch once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogtune.errors import UserError
from cogtune.train.data_order import DataOrder
from cogtune.work.batches import BatchPlan, plan_batches, total_steps


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 8))
def test_positions_cover_the_global_batch_once(micro: int, accumulation: int, ranks: int) -> None:
    plan = BatchPlan(micro, accumulation, ranks)
    seen = [p for k in range(accumulation) for rank in range(ranks) for p in plan.positions(rank, k)]
    assert seen == list(range(plan.global_batch))


@pytest.mark.parametrize(
    ("micro", "total", "ranks", "expected"),
    [
        (2, 16, 8, BatchPlan(2, 1, 8)),
        (2, 16, 2, BatchPlan(2, 4, 2)),
        (8, 8, 2, BatchPlan(4, 1, 2)),  # the micro batch shrinks to a rank's share
        (8, 8, 8, BatchPlan(1, 1, 8)),
    ],
)
def test_plan(micro: int, total: int, ranks: int, expected: BatchPlan) -> None:
    assert plan_batches(micro, total, ranks) == expected


@pytest.mark.parametrize(("micro", "total", "ranks"), [(2, 16, 3), (3, 16, 2), (1, 4, 8)])
def test_shares_that_do_not_come_out_even_are_refused(micro: int, total: int, ranks: int) -> None:
    with pytest.raises(UserError, match=r"args\.global_batch_size"):
        plan_batches(micro, total, ranks)


@given(st.integers(1, 12), st.integers(1, 7), st.integers(0, 99))
def test_every_epoch_is_a_permutation(count: int, batch: int, seed: int) -> None:
    order = DataOrder(count, seed)
    steps = 3 * count // batch + 1
    seen = [item for step in range(steps) for item in order.items(step, range(batch), batch)]
    for epoch in range(len(seen) // count):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_order_depends_on_the_seed_and_changes_from_epoch_to_epoch() -> None:
    def epoch(seed: int, number: int) -> list[int]:
        order = DataOrder(50, seed)
        return [order.item(number * 50 + place) for place in range(50)]

    assert epoch(1, 0) == epoch(1, 0)
    assert epoch(1, 0) != epoch(2, 0)
    assert epoch(1, 0) != epoch(1, 1)


def test_epochs_are_counted_in_steps() -> None:
    assert total_steps(7, None, 100, 8) == 7
    assert total_steps(None, 2, 12, 8) == 3
    assert total_steps(None, 1, 13, 8) == 2
