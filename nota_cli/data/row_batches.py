"""Annotation rows to batches, in order, as inference and validation take them."""

from collections.abc import Generator as Stream
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nota_cli.data.annotation import Row, clip_paths, row_id
from nota_cli.data.audio.clip import AudioNote, load_clip
from nota_cli.data.workers import AHEAD, prefetch
from nota_cli.errors import DataError
from nota_cli.prompts import Query

Window = tuple[float, float]


class Preprocessor(Protocol):
    """Makes features of waveforms: a model family's (`nota_cli.models.families.base.Preprocessor`)."""

    @property
    def max_seconds(self) -> float: ...  # noqa: D102

    @property
    def device(self) -> Any: ...  # noqa: D102

    def features(self, waves: list[np.ndarray[Any, Any]]) -> Any: ...  # noqa: D102


@dataclass(frozen=True)
class Batch:
    """What a step of training or inference needs of some rows; `bad` and `notes` as in `Decoded`."""

    features: Any
    queries: list[Query]
    texts: list[str]
    labels: list[str | None]
    rows: list[int]
    bad: tuple[tuple[int, str], ...] = ()
    notes: tuple[tuple[int, AudioNote], ...] = ()

    def part(self, chosen: slice) -> "Batch":
        """Some of its rows, padded as a batch of these alone would be."""
        lists = {name: getattr(self, name)[chosen] for name in ("queries", "texts", "labels", "rows")}
        return replace(self, features=self.features.part(chosen), **lists)


@dataclass(frozen=True)
class Decoded:
    """Rows whose audio is decoded and whose features are still to be made.

    Attributes:
        waves: float32 at 16 kHz, for each of `rows`.
        bad: rows of the group whose audio cannot be used, and why.
        notes: what is odd about the audio of others.
    """

    waves: list[np.ndarray[Any, Any]]
    rows: list[int]
    bad: tuple[tuple[int, str], ...] = ()
    notes: tuple[tuple[int, AudioNote], ...] = ()

    def part(self, chosen: slice) -> "Decoded":
        """Some of its rows."""
        return replace(self, waves=self.waves[chosen], rows=self.rows[chosen])

    def whole(self) -> "Decoded":
        """Itself.

        Raises:
            DataError: rows cannot be used; the message names file and row of each.
        """
        if self.bad:
            raise DataError("\n".join(reason for _, reason in self.bad))
        return self


def query_of(row: Row) -> Query:
    """What is asked of the clip of one annotation row."""
    return Query(row.task, row.asked, row_id(row))


def in_order(count: int, size: int) -> list[list[int]]:
    """Positions 0 to `count` - 1 in groups of `size`, the last one perhaps smaller."""
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


class RowBatches:
    """Batches of given rows, for inference and validation; item `i` is the `i`-th group of row positions.

    Args:
        rows: annotation rows.
        groups: positions in `rows`, a batch each.
        audio_root: what the rows' paths are relative to.
        spec: what makes the features.
        windows: for each of `rows` the part of its clip that is meant, in seconds from its start; None for the whole
            clip, cut at `spec.max_seconds`. A row may be there several times, each time with another window.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        groups: Sequence[Sequence[int]],
        audio_root: str | Path,
        spec: Preprocessor,
        windows: Sequence[Window | None] | None = None,
    ) -> None:
        self.rows, self.groups, self.audio_root, self.spec, self.windows = rows, groups, audio_root, spec, windows

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Batch:
        return self.finish(self.decode(index).whole())

    def decode(self, index: int) -> Decoded:
        """The waveforms of the `index`-th group, and which of its rows have none."""
        waves, rows, bad, notes = [], [], [], []
        for position in self.groups[index]:
            odd: list[AudioNote] = []
            try:
                waves.append(self._wave(position, odd))
                rows.append(position)
                notes += [(position, note) for note in odd]
            except DataError as error:
                bad.append((position, str(error)))
        return Decoded(waves, rows, tuple(bad), tuple(notes))

    def _wave(self, position: int, notes: list[AudioNote]) -> np.ndarray[Any, Any]:
        row = self.rows[position]
        window = None if self.windows is None else self.windows[position]
        part = {} if window is None else {"start": window[0], "stop": window[1]}
        paths = clip_paths(row, self.audio_root)
        return load_clip(paths, row=row.number, max_seconds=self.spec.max_seconds, notes=notes, **part)

    def ahead(self, index: int) -> Decoded | Batch:
        """What a worker makes of the `index`-th group: features, unless these are made elsewhere or no row is good."""
        decoded = self.decode(index)
        return decoded if self.spec.device is not None or not decoded.rows else self.finish(decoded)

    def finish(self, decoded: Decoded) -> Batch:
        """The group with its features, on the spec's device."""
        chosen = [self.rows[position] for position in decoded.rows]
        return Batch(
            self.spec.features(decoded.waves),
            [query_of(row) for row in chosen],
            [row.text or "" for row in chosen],
            [row.label for row in chosen],
            decoded.rows,
            decoded.bad,
            decoded.notes,
        )


class Batches(Protocol):
    """Batches by number."""

    def __getitem__(self, index: int) -> Batch: ...


def loader(
    dataset: "RowBatches | Batches", order: Sequence[int], workers: int, timeout: float = 0.0
) -> Iterator[Batch]:
    """Batches in the given order, made ahead by worker processes (0: in this one).

    Workers make features on the CPU; those for another device are made here, so that no worker needs CUDA.

    Args:
        dataset: what makes them.
        order: their indices.
        workers: processes that work ahead.
        timeout: seconds that a batch of theirs is waited for; 0: for ever.

    Raises:
        NotaError: what stopped a worker, as the worker raised it; that it died, or that it is stuck.
    """
    late = dataset if isinstance(dataset, RowBatches) and dataset.spec.device is not None else None
    make = dataset.__getitem__ if late is None else lambda index: late.decode(index).whole()
    for batch in prefetch(make, order, workers, timeout=timeout):
        yield batch if late is None else late.finish(batch)


def tolerant_loader(
    dataset: RowBatches, order: Sequence[int], workers: int, ahead: int = AHEAD
) -> Stream[Decoded | Batch, None, None]:
    """As `loader`, but rows whose audio cannot be used come by name in what is yielded.

    What is yielded lacks its features (`RowBatches.finish`) where they are made on another device, or of no row.

    Args:
        dataset: the rows.
        order: which of its groups.
        workers: processes that work ahead.
        ahead: groups that each of them may be ahead.
    """
    yield from prefetch(dataset.ahead, order, workers, ahead)
