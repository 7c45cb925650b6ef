"""What the model hears at once, and in which order: long clips first, batches of like length and like settings."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from nota_cli.data.annotation import Row
from nota_cli.data.batches import Window
from nota_cli.long_audio import windows
from nota_cli.recipe.schema import Generate

UNKNOWN = float("inf")  # seconds of a clip whose header tells none: it comes first, and decoding it will tell


@dataclass(frozen=True, slots=True)
class Unit:
    """A row's clip, or one window of it.

    Attributes:
        row: position of its row.
        seconds: how much of it is heard.
        window: which part of the clip; None for its beginning.
    """

    row: int
    seconds: float
    window: Window | None = None

    @property
    def rank(self) -> float:
        """Seconds, for a window as if it were a whole one."""
        return self.seconds if self.window is None else UNKNOWN


def longest_first(positions: Sequence[int], seconds: Sequence[float], most: float) -> list[int]:
    """Row positions by how much of their clips is heard at once, the annotation's order among equals.

    Args:
        positions: which rows.
        seconds: for each of them its clip's length.
        most: what of a clip is heard at once.
    """
    order = sorted(range(len(positions)), key=lambda place: -min(seconds[place], most))
    return [positions[place] for place in order]


def units(positions: Sequence[int], seconds: Sequence[float], most: float, *, chunk: bool) -> list[Unit]:
    """The rows' clips; with `chunk` those that are longer than `most` as overlapping windows, one behind the other."""
    found = []
    for position, length in zip(positions, seconds, strict=True):
        if chunk and most < length and isfinite(length):
            found += [Unit(position, stop - start, (start, stop)) for start, stop in windows(length, window=most)]
        else:
            found.append(Unit(position, min(length, most)))
    return found


def groups(
    members: Sequence[Unit], rows: Sequence[Row], settings: Callable[[str], Generate], size: Callable[[Generate], int]
) -> list[list[int]]:
    """Places in `members`, a batch each: same settings, neighbours in length; the batch with the longest clip first.

    Args:
        members: longest first.
        rows: annotation rows.
        settings: those of a task.
        size: clips of a batch with given settings.
    """
    by_settings: dict[str, list[int]] = defaultdict(list)
    known: dict[str, tuple[str, Generate]] = {}
    for place, unit in enumerate(members):
        task = rows[unit.row].task
        if task not in known:
            known[task] = (settings(task).model_dump_json(), settings(task))
        by_settings[known[task][0]].append(place)
    sizes = {key: size(values) for key, values in known.values()}
    found = [
        places[start : start + sizes[key]]
        for key, places in by_settings.items()
        for start in range(0, len(places), sizes[key])
    ]
    # Not by a last window's own length: the windows of a row stay in order.
    return sorted(found, key=lambda group: -members[group[0]].rank)
