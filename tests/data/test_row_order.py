"""The order in which rows of shards are read: every row once an epoch, near where it lies, by its number alone."""

from collections import Counter

import numpy as np
import pytest

from nota_cli.data.annotation import Row
from nota_cli.data.row_order import RowOrder
from nota_cli.data.row_table import RowTable

SIZES = [7, 30, 1, 18, 24]


def table(paths: list[str]) -> RowTable:
    return RowTable.of([Row(number, path, "asr", "one", None, None, ()) for number, path in enumerate(paths)])


PATHS = [f"shard-{shard}.tar/{member:03d}.wav" for shard, size in enumerate(SIZES) for member in range(size)]
COUNT = len(PATHS)


def shard_runs(rows: list[int]) -> list[str]:
    shards = [PATHS[row].partition("/")[0] for row in rows]
    return [shard for number, shard in enumerate(shards) if number == 0 or shards[number - 1] != shard]


@pytest.mark.parametrize("buffer", [1, 8, 33, 10**6])
def test_each_row_comes_once_an_epoch_and_by_its_number_alone(buffer: int) -> None:
    def made(seed: int = 0) -> RowOrder:
        return RowOrder(table(PATHS), buffer, (seed, 0))

    order = made()
    whole = [order[index] for index in range(3 * COUNT)]
    for epoch in range(3):
        assert Counter(whole[epoch * COUNT : (epoch + 1) * COUNT]) == dict.fromkeys(range(COUNT), 1)
    assert whole[:COUNT] != whole[COUNT : 2 * COUNT]
    assert [made()[index] for index in range(0, 3 * COUNT, 11)] == whole[::11]
    assert [made(1)[index] for index in range(COUNT)] != whole[:COUNT]


def test_without_a_buffer_each_shard_is_read_front_to_back_and_shards_change_places() -> None:
    order = RowOrder(table(PATHS), 1, (0, 0))
    firsts = []
    for epoch in range(4):
        rows = [order[epoch * COUNT + index] for index in range(COUNT)]
        runs = shard_runs(rows)
        assert sorted(runs) == [f"shard-{shard}.tar" for shard in range(len(SIZES))]
        for shard in runs:
            own = [row for row in rows if PATHS[row].startswith(shard)]
            assert own == sorted(own)
        firsts.append(tuple(runs))
    assert len(set(firsts)) > 1


def test_a_row_is_read_at_most_a_buffer_from_where_it_lies() -> None:
    plain, shuffled = (RowOrder(table(PATHS), buffer, (0, 0)) for buffer in (1, 8))
    places = {plain[index]: index for index in range(COUNT)}
    distances = [abs(places[shuffled[index]] - index) for index in range(COUNT)]
    assert max(distances) < 8
    assert np.mean(np.array(distances) > 0) > 0.5


def test_rows_of_a_shard_are_read_together_wherever_the_annotation_has_them() -> None:
    mixed = [PATHS[index] for index in np.random.default_rng(0).permutation(COUNT)]
    order = RowOrder(table(mixed), 1, (0, 0))
    shards = [mixed[order[index]].partition("/")[0] for index in range(COUNT)]
    changes = sum(one != other for one, other in zip(shards, shards[1:], strict=False))
    assert changes == len(SIZES) - 1


def test_rows_in_no_shard_are_read_as_the_annotation_has_them() -> None:
    order = RowOrder(table([f"{number}.wav" for number in range(20)]), 1, (0, 0))
    assert [order[index] for index in range(40)] == [*range(20), *range(20)]
