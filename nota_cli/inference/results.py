"""What became of every row of a run, in a few bytes each beside its text: test sets may be long and memory short."""

import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from nota_cli.inference.journal import BLANK, DONE, SKIPPED, Entry

STATUSES = ("", DONE, BLANK, SKIPPED)  # the first for rows of which nothing is known


@dataclass(frozen=True)
class Result:
    """What became of a row; `reason` why its audio cannot be used, in which case there is no text.

    `notes` has what is odd about the audio otherwise: sentences by kind (`nota_cli.data.audio.clip.AudioNote`).
    """

    row: int
    text: str
    looped: bool = False
    reason: str | None = None
    notes: dict[str, str] = field(default_factory=dict)


@dataclass
class Tally:
    """Counts and seconds of a run, as they stand.

    Attributes:
        rows: answered ones.
        audio_seconds: that the model has heard.
        wait: for audio and features; `generate`: encoders and decoder; `write`: what the caller does with results.
        batch_size: the largest batch that went through.
        halvings: how often a batch did not fit the memory.
        compute: part of the model to the type that it computes in.
    """

    rows: int = 0
    audio_seconds: float = 0.0
    wait: float = 0.0
    generate: float = 0.0
    write: float = 0.0
    batch_size: int = 0
    halvings: int = 0
    compute: dict[str, str] = field(default_factory=dict)


class Outcomes:
    """Entries by row; of several of one row the first that is done counts, else the last.

    Args:
        count: rows of the run.
    """

    def __init__(self, count: int) -> None:
        self._status, self._looped = bytearray(count), bytearray(count)
        self._seconds = array("d", bytes(8 * count))
        self._texts = [""] * count
        self._reasons: dict[int, str] = {}
        self._notes: dict[int, dict[str, str]] = {}

    def __len__(self) -> int:
        return len(self._status)

    def __getitem__(self, row: int) -> Entry:
        """What became of a row that is not missing."""
        status, looped = STATUSES[self._status[row]], bool(self._looped[row])
        reason, notes = self._reasons.get(row, ""), self._notes.get(row, {})
        return Entry(row, self._texts[row], status, looped, reason, self._seconds[row], notes)

    def __iter__(self) -> Iterator[Entry]:
        return map(self.__getitem__, range(len(self)))

    @property
    def missing(self) -> int:
        """How many rows have no entry."""
        return self._status.count(0)

    def add(self, entry: Entry) -> None:
        """Take note of what became of a row."""
        row = entry.row
        if STATUSES[self._status[row]] == DONE:
            return
        self._status[row], self._looped[row] = STATUSES.index(entry.status), entry.looped
        self._texts[row], self._seconds[row] = entry.text, entry.seconds
        if entry.reason:
            self._reasons[row] = entry.reason
        else:
            self._reasons.pop(row, None)
        if entry.notes:
            self._notes[row] = entry.notes
        else:
            self._notes.pop(row, None)


@contextmanager
def timed(record: object, stage: str) -> Iterator[None]:
    """Add the seconds that pass inside to the attribute `stage` of a record of seconds."""
    started = time.monotonic()
    yield
    setattr(record, stage, getattr(record, stage) + time.monotonic() - started)
