"""Which rows a training batch has: sources mixed by weight, and clips of alike length batched together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.random import Generator


@dataclass(frozen=True, slots=True)
class Draw:
    """One clip of a batch.

    Attributes:
        source: which source it comes from.
        rows: its row, then those that are joined to it.
        number: with the seed, what the changes to it are drawn from; no other clip of the run has it.
    """

    source: int
    rows: tuple[int, ...]
    number: tuple[int, int]


class Pool(Protocol):
    """A source that draws are made from; its rows are drawn at random, or read `in_order`."""

    @property
    def in_order(self) -> bool: ...  # noqa: D102

    def pick(self, rng: Generator, number: int) -> tuple[int, ...]:
        """A row, and those that are joined to it: a random one, or that of its `number`-th draw if `in_order`."""

    def seconds(self, rows: tuple[int, ...]) -> float:
        """About how long the clip of these rows is."""


class BatchPlan:
    """Item `i` is what the `i`-th batch has; it depends on the arguments and on `i` alone.

    Args:
        pools: the sources.
        weights: share of the draws of each, relative to the others.
        size: clips of a batch.
        seed: of the draws.
        buckets: so many batches are drawn together, sorted by length, and cut into batches of neighbours.
        batch_seconds: cut them where the next clip would make the padded batch longer than this, not by `size`.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        weights: Sequence[float],
        size: int,
        seed: int,
        *,
        buckets: int = 1,
        batch_seconds: float | None = None,
    ) -> None:
        self.pools, self.size, self.seed = pools, size, seed
        self.buckets, self.batch_seconds = max(1, buckets), batch_seconds
        self.shares = np.array(weights) / np.sum(weights)
        self._starts = [0]  # number of the first batch of each group, as far as known; with `batch_seconds` alone
        self._drawn = [[0] * len(pools)]  # draws of each source before each group, as far as known
        self._last_group: tuple[int, list[list[Draw]]] = (-1, [])

    def __getitem__(self, index: int) -> list[Draw]:
        if self.batch_seconds is None:
            group, batch = divmod(index, self.buckets)
        else:
            group, batch = self._located(index)
        return self._group(group)[batch]

    def _located(self, index: int) -> tuple[int, int]:
        """Group of a batch and its index there; how many batches the groups before it have is known by making them."""
        while self._starts[-1] <= index:
            self._starts.append(self._starts[-1] + len(self._group(len(self._starts) - 1)))
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        return group, index - self._starts[group]

    def _group(self, number: int) -> list[list[Draw]]:
        if self._last_group[0] != number:
            self._last_group = number, self._draw_group(number)
        return self._last_group[1]

    def _draw_group(self, number: int) -> list[list[Draw]]:
        rng, choices = self._choices(number)
        drawn = [*self._drawn_before(number)]
        draws = []
        for index, choice in enumerate(choices):
            draws.append(Draw(choice, self.pools[choice].pick(rng, drawn[choice]), (number, index + 1)))
            drawn[choice] += 1
        if self.buckets == 1 and self.batch_seconds is None:
            return [draws]
        seconds = [self.pools[draw.source].seconds(draw.rows) for draw in draws]
        longest_first = sorted(range(len(draws)), key=lambda index: (-seconds[index], index))
        batches: list[list[Draw]] = []
        room = 0
        for index in longest_first:
            if not room:
                batches.append([])
                room = self.size if self.batch_seconds is None else max(1, int(self.batch_seconds / seconds[index]))
            batches[-1].append(draws[index])
            room -= 1
        return [batches[index] for index in rng.permutation(len(batches))]

    def _choices(self, number: int) -> tuple[Generator, list[int]]:
        """The source of each draw of a group, and what the draws themselves are drawn from."""
        rng = np.random.default_rng([self.seed, number])  # the same as of [seed, number, 0]: clips count from 1
        return rng, rng.choice(len(self.pools), size=self.size * self.buckets, p=self.shares).tolist()

    def _drawn_before(self, number: int) -> list[int]:
        """How many draws each source had before a group; not counted where no source is read in order."""
        if not any(pool.in_order for pool in self.pools):
            return self._drawn[0]
        while len(self._drawn) <= number:
            _, choices = self._choices(len(self._drawn) - 1)
            more = np.bincount(choices, minlength=len(self.pools)).tolist()
            self._drawn.append([before + count for before, count in zip(self._drawn[-1], more, strict=True)])
        return self._drawn[number]
