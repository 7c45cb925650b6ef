"""Rows of tar shards nearly as they lie: shards in random order, neighbors shuffled, each row once an epoch."""

from typing import Any

import numpy as np

from nota_cli.data.row_table import RowTable

Rows = np.ndarray[Any, Any]


class RowOrder:
    """Item `i` is the `i`-th row that is read; it depends on the arguments and on `i` alone.

    In each epoch the shards stand in another order, their rows one after another as the annotation has them. Of this
    sequence so many rows at a time are shuffled, across the border of two shards too. Rows that lie in no shard count
    as one.

    Args:
        table: the rows.
        buffer: rows that are shuffled at a time.
        seed: of the orders.
    """

    def __init__(self, table: RowTable, buffer: int, seed: tuple[int, ...]) -> None:
        self.buffer, self.seed = buffer, seed
        shards: dict[str, int] = {}
        names = (shard for shard, *_ in table.names())
        codes = np.fromiter((shards.setdefault(_shard(name), len(shards)) for name in names), np.int32, len(table))
        self._rows = np.argsort(codes, kind="stable").astype(np.int32 if len(table) < 2**31 else np.int64)
        self._starts = np.searchsorted(codes[self._rows], np.arange(len(shards) + 1))  # of each shard in `_rows`
        self._epoch: tuple[int, Rows, Rows] = (-1, self._starts, self._starts)
        self._window: tuple[int, int, Rows] = (-1, -1, self._rows)

    def __getitem__(self, index: int) -> int:
        epoch, position = divmod(index, len(self._rows))
        window, place = divmod(position, self.buffer)
        if self._window[:2] != (epoch, window):
            self._window = epoch, window, self._shuffled(epoch, window)
        return int(self._window[2][place])

    def _shuffled(self, epoch: int, window: int) -> Rows:
        """The rows of a window in the order in which they are read."""
        order, ends = self._shard_order(epoch)
        positions = np.arange(window * self.buffer, min((window + 1) * self.buffer, len(self._rows)))
        turn = np.searchsorted(ends, positions, side="right")
        # How far each row lies from its shard's end is the same in the epoch's sequence and in `_rows`.
        rows = self._rows[self._starts[order[turn] + 1] - (ends[turn] - positions)]
        return np.random.default_rng([*self.seed, epoch, 2 + window]).permutation(rows)

    def _shard_order(self, epoch: int) -> tuple[Rows, Rows]:
        """The shards of an epoch as they follow each other, and where in its sequence of rows each ends."""
        if self._epoch[0] != epoch:
            order = np.random.default_rng([*self.seed, epoch, 1]).permutation(len(self._starts) - 1)
            self._epoch = epoch, order, np.cumsum(np.diff(self._starts)[order])
        return self._epoch[1:]


def _shard(name: str) -> str:
    """The tar file that a row's path begins with; nothing of other paths."""
    shard, inside, _ = name.partition(".tar/")
    return shard if inside else ""
