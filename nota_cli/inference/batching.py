"""What the model hears at once, and in which order: long clips first, batches of like length and like settings."""

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from nota_cli.data.annotation import Row
from nota_cli.inference.long_audio import windows
from nota_cli.recipe.schema import Generate

if TYPE_CHECKING:
    from nota_cli.data.row_batches import Window

UNKNOWN = float("inf")  # seconds of a clip whose header tells none: it comes first, and decoding it will tell


@dataclass(frozen=True, slots=True)
class Segment:
    """A row's clip, or one window of it.

    Attributes:
        row: position of its row.
        seconds: how much of it is heard.
        window: which part of the clip; None for its beginning.
    """

    row: int
    seconds: float
    window: "Window | None" = None

    @property
    def sort_key(self) -> float:
        """Seconds, for a window as if it were a whole one."""
        return self.seconds if self.window is None else UNKNOWN


class Segments(Sequence[Segment]):
    """Segments, of which none is an object before it is asked for: test sets may be long and memory short."""

    def __init__(self, members: Iterable[Segment] = ()) -> None:
        self._rows, self._seconds = array("q"), array("d")
        self._windows: dict[int, Window] = {}
        for segment in members:
            if segment.window is not None:
                self._windows[len(self._rows)] = segment.window
            self._rows.append(segment.row)
            self._seconds.append(segment.seconds)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Segment:  # type: ignore[override]  # nobody takes slices
        return Segment(self._rows[index], self._seconds[index], self._windows.get(index))

    def without(self, indices: Collection[int]) -> "Segments":
        """The others."""
        return Segments(segment for index, segment in enumerate(self) if index not in indices)


def longest_first(positions: Sequence[int], seconds: Sequence[float], most: float) -> "array[int]":
    """Row positions by how much of their clips is heard at once, the annotation's order among equals.

    Args:
        positions: which rows.
        seconds: for each of them its clip's length.
        most: what of a clip is heard at once.
    """
    order = sorted(range(len(positions)), key=lambda index: -min(seconds[index], most))
    return array("q", (positions[index] for index in order))


def segments(positions: Sequence[int], seconds: Sequence[float], most: float, *, chunk: bool) -> Segments:
    """The rows' clips; with `chunk` those that are longer than `most` as overlapping windows, one behind the other."""

    def clips() -> Iterator[Segment]:
        for position, length in zip(positions, seconds, strict=True):
            if chunk and most < length and isfinite(length):
                for start, stop in windows(length, window=most):
                    yield Segment(position, stop - start, (start, stop))
            else:
                yield Segment(position, min(length, most))

    return Segments(clips())


def groups(
    members: Sequence[Segment],
    rows: Sequence[Row],
    settings: Callable[[str], Generate],
    size: Callable[[Generate], int],
) -> list[Sequence[int]]:
    """Indices into `members`, a batch each: same settings, neighbours in length; the batch with the longest clip first.

    Args:
        members: longest first.
        rows: annotation rows.
        settings: those of a task.
        size: clips of a batch with given settings.
    """
    by_settings: dict[str, array[int]] = {}
    settings_of: dict[str, tuple[str, Generate]] = {}
    for index, segment in enumerate(members):
        task = rows[segment.row].task
        if task not in settings_of:
            settings_of[task] = (settings(task).model_dump_json(), settings(task))
        by_settings.setdefault(settings_of[task][0], array("q")).append(index)
    sizes = {key: size(values) for key, values in settings_of.values()}
    batches: list[Sequence[int]] = [
        indices[start : start + sizes[key]]
        for key, indices in by_settings.items()
        for start in range(0, len(indices), sizes[key])
    ]
    # Not by a last window's own length: the windows of a row stay in order.
    return sorted(batches, key=lambda group: -members[group[0]].sort_key)
