"""Which rows a batch has: by weight, by length, and by its number alone."""

from collections import Counter

import numpy as np
import pytest
from numpy.random import Generator

from nota_cli.data.plan import BatchPlan


class Clips:
    """Rows of given lengths in seconds."""

    def __init__(self, *seconds: float, in_order: bool = False) -> None:
        self.lengths, self.in_order = seconds, in_order

    def pick(self, rng: Generator, number: int) -> tuple[int, ...]:
        return (number % len(self.lengths) if self.in_order else int(rng.integers(len(self.lengths))),)

    def seconds(self, rows: tuple[int, ...]) -> float:
        return self.lengths[rows[0]]


MIXED = [Clips(*np.random.default_rng(0).uniform(1, 30, 200)), Clips(2.0)]
READ = Clips(*np.random.default_rng(1).uniform(1, 30, 50), in_order=True)
WAYS = [{}, {"buckets": 8}, {"buckets": 8, "batch_seconds": 60.0}]


@pytest.mark.parametrize("pools", [MIXED, [READ, MIXED[0]]], ids=["drawn", "read"])
@pytest.mark.parametrize("way", WAYS)
def test_a_batch_depends_on_its_number_alone(way: dict[str, float], pools: list[Clips]) -> None:
    def made() -> BatchPlan:
        return BatchPlan(pools, [3, 1], 4, 7, **way)

    walked = made()
    whole = [walked[index] for index in range(40)]
    assert [made()[index] for index in range(0, 40, 7)] == whole[::7]
    assert made()[39] == whole[39]
    assert whole != [BatchPlan(pools, [3, 1], 4, 8, **way)[index] for index in range(40)]
    numbers = Counter(draw.number for batch in whole for draw in batch)
    assert set(numbers.values()) == {1}


def padding(plan: BatchPlan, count: int) -> float:
    lengths = [[plan.pools[draw.source].seconds(draw.rows) for draw in plan[index]] for index in range(count)]
    return 1 - sum(map(sum, lengths)) / sum(len(batch) * max(batch) for batch in lengths)


def test_clips_of_a_batch_are_alike_in_length_and_none_is_lost() -> None:
    alone, sorted_ = BatchPlan(MIXED, [1, 0], 8, 0), BatchPlan(MIXED, [1, 0], 8, 0, buckets=32)
    assert padding(alone, 64) > 0.35
    assert padding(sorted_, 64) < 0.05
    assert all(len(sorted_[index]) == 8 for index in range(64))
    together = BatchPlan(MIXED, [1, 0], 256, 0)[0]
    assert Counter(d.rows for d in together) == Counter(d.rows for index in range(32) for d in sorted_[index])


def test_batches_by_seconds_fit_and_long_ones_are_not_always_first() -> None:
    plan = BatchPlan(MIXED, [1, 1], 8, 0, buckets=16, batch_seconds=60.0)
    longest = []
    for index in range(60):
        lengths = [plan.pools[draw.source].seconds(draw.rows) for draw in plan[index]]
        assert len(lengths) * max(lengths) <= 60.0
        longest.append(max(lengths))
    assert longest != sorted(longest, reverse=True)
    assert max(len(plan[index]) for index in range(60)) == 30  # of 2 s


def test_a_clip_longer_than_the_batch_is_one_alone() -> None:
    plan = BatchPlan([Clips(30.0)], [1], 4, 0, buckets=2, batch_seconds=10.0)
    assert [len(plan[index]) for index in range(8)] == [1] * 8


@pytest.mark.parametrize("way", WAYS)
def test_a_source_that_is_read_in_order_gives_each_row_once_an_epoch(way: dict[str, float]) -> None:
    plan = BatchPlan([MIXED[0], READ], [3, 1], 4, 7, **way)
    draws = sorted((draw for index in range(160) for draw in plan[index]), key=lambda draw: draw.number)
    read = [draw.rows[0] for draw in draws if draw.source == 1]
    epochs = len(read) // 50
    assert epochs >= 2
    # With `buckets` the last group may be there in part; the epochs before it are whole.
    assert Counter(read[: 50 * (epochs - 1)]) == dict.fromkeys(range(50), epochs - 1)
