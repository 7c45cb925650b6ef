"""Annotations to train on, however long: read once into a table on disk, which later runs map into memory.

The table lies in a folder of the user's (`kept_folder`) and is named by what the annotation holds, so that a changed
annotation is another table. Short annotations are read anew each time and leave nothing behind.
"""

import hashlib
import math
import os
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nota_cli.console import progress, say
from nota_cli.data.annotation import (
    Row,
    check_row,
    default_id,
    make_row,
    read_annotation,
    refuse,
    repeated_ids,
    unreadable,
)
from nota_cli.data.audio.headers import scan
from nota_cli.data.kept import kept_folder, writing
from nota_cli.data.row_files import file_looker
from nota_cli.data.row_stream import stream_rows
from nota_cli.data.row_table import RowTable, batches_of, write_batches
from nota_cli.errors import DataError, printable
from nota_cli.files import atomic_path, file_sha256
from nota_cli.parsing import ParseError
from nota_cli.paths import shard_files
from nota_cli.version import __version__

FORMAT = 1  # counts up when rows are kept in another way
STREAMED = (".jsonl", ".parquet", ".tar")
"""Endings of annotations that are no JSON file of one object."""
LARGE_BYTES = 2**25
"""From this size on a table is made of an annotation."""
SCANNED_AT_ONCE = 2**14
SAVE_SECONDS = 60.0
"""Lengths known so far are saved so often."""
LENGTH = np.dtype([("stamp", np.int64), ("seconds", np.float64)])
"""A clip's length, NaN where the headers of its files do not say, and a number that changes with these files."""


class TrainingRows:
    """The rows of an annotation, every one checked and its audio files looked for.

    Args:
        annotation: `.json` as everywhere, or what else `stream_rows` reads: `.jsonl`, `.parquet`, shards (`.tar`).
        audio_root: what the rows' paths are relative to.

    Raises:
        UsageError: the annotation or the audio root is not there.
        DataError: the annotation cannot be used, or names a file that is not there; every such row is named.
        NotaError: the table cannot be written.
    """

    def __init__(self, annotation: str, audio_root: str) -> None:
        self.audio_root = audio_root
        path = Path(annotation)
        self._stamps: np.ndarray[Any, np.dtype[np.int64]] | None = None
        if _is_large(path):
            self.table = _kept_table(path, audio_root)
            self._stamps = _look_at_files(self.table, path, audio_root)
        elif path.suffix.lower() in STREAMED:
            self.table = RowTable(pa.Table.from_batches(list(_checked_batches(path, audio_root))))
            _look_at_files(self.table, path, audio_root)
        else:
            self.table = RowTable.of(read_annotation(path, audio_root=audio_root))

    def seconds(self) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """How long each row's clip is by the headers of its files, NaN where they do not say.

        Those of large annotations are kept beside the table; the headers of files that have changed are read again.
        """
        if self._stamps is None or self.table.key is None:
            return np.array(scan(self.table, self.audio_root).durations, dtype=np.float64)
        root = hashlib.sha256(os.path.realpath(self.audio_root).encode("utf-8", "surrogateescape")).hexdigest()[:12]
        file = kept_folder() / f"{self.table.key}-{root}.npy"
        with writing(file):
            known = _lengths(file, len(self.table))
            stale = np.flatnonzero((known["stamp"] != self._stamps) | (known["stamp"] == 0))
            if len(stale):
                say(f"reading how long {len(stale)} clips are, which is kept in {file}")
                self._measure(known, stale, file)
        return known["seconds"].copy()

    def _measure(self, known: "np.ndarray[Any, Any]", stale: "np.ndarray[Any, Any]", file: Path) -> None:
        assert self._stamps is not None
        saved = time.monotonic()
        with progress() as bar:
            task = bar.add_task("lengths", total=len(stale), detail="")
            for start in range(0, len(known), SCANNED_AT_ONCE):
                numbers = stale[np.searchsorted(stale, start) : np.searchsorted(stale, start + SCANNED_AT_ONCE)]
                if not len(numbers):
                    continue
                names = list(self.table.names(start, start + SCANNED_AT_ONCE))
                known["seconds"][numbers] = self._lengths_of([names[number - start] for number in numbers.tolist()])
                known["stamp"][numbers] = self._stamps[numbers]
                if time.monotonic() - saved > SAVE_SECONDS or numbers[-1] == stale[-1]:
                    with atomic_path(file) as part, part.open("wb") as opened:
                        np.save(opened, known)
                    saved = time.monotonic()
                bar.update(task, advance=len(numbers))

    def _lengths_of(self, names: list[tuple[str, ...]]) -> list[float]:
        """Seconds of the clips of these files, NaN where they are not known; rows of the same files are one."""
        once = {clip: number for number, clip in enumerate(dict.fromkeys(names))}
        rows = [Row(number, clip[0], "", None, None, None, clip[1:]) for clip, number in once.items()]
        durations = scan(rows, self.audio_root).durations
        seconds = [math.nan if duration is None else duration for duration in durations]
        return [seconds[once[clip]] for clip in names]


def _is_large(path: Path) -> bool:
    try:
        return sum(os.stat(file).st_size for file in shard_files(str(path))) >= LARGE_BYTES
    except OSError:
        return False  # its reader says why


def _kept_table(path: Path, audio_root: str) -> RowTable:
    """The table of a large annotation, made if there is none yet."""
    try:
        before = _status(path)
        kind = path.suffix.lower() if path.suffix.lower() in STREAMED else ".json"
        # Shards hold all recordings too: to read them whole would take as long as an epoch.
        content = str((os.path.realpath(audio_root), before)) if kind == ".tar" else file_sha256(path)
    except OSError as error:
        raise unreadable(path, error) from error
    key = hashlib.sha256(os.fsencode(f"{FORMAT} {__version__} {kind} {content}")).hexdigest()[:32]
    file = kept_folder() / f"{key}.arrow"
    with writing(file):
        if file.exists():
            try:
                return RowTable.mapped(file, key)
            except (pa.ArrowInvalid, OSError, ValueError):
                say(f"{file} is damaged; it is made again")
        say(f"reading the rows of {printable(str(path))} into {file}")
        with atomic_path(file) as part:
            write_batches(_checked_batches(path, audio_root), part)
            if _status(path) != before:
                raise DataError(f"{printable(str(path))}: was changed while it was read. Run the command again.")
    return RowTable.mapped(file, key)


def _status(path: Path) -> list[tuple[str, int, int]]:
    """Of the annotation's file or shards: names, sizes and times."""
    files = [(os.path.realpath(file), os.stat(file)) for file in shard_files(str(path))]
    return [(file, status.st_size, status.st_mtime_ns) for file, status in files]


def _checked_batches(path: Path, audio_root: str) -> Iterator[pa.RecordBatch]:
    """The rows in batches; when all of them are out, an error if one was not good.

    Raises:
        UsageError: the file cannot be opened.
        DataError: rows of it cannot be used, each named; what is wrong with the files of others is said as well.
    """
    problems: list[tuple[int, str]] = []
    ids, numbers = array("q"), array("q")  # hashes: the ids of a million rows would take more memory than all else
    try:
        yield from batches_of(_good(path, audio_root, problems, ids, numbers))
        again = _alike(ids, numbers)
        if again:
            items = enumerate(stream_rows(path, audio_root))
            problems += repeated_ids(make_row(number, item, None) for number, item in items if number in again)
        if problems:
            problems += _file_problems(path, audio_root)
    except OSError as error:
        raise unreadable(path, error) from error
    refuse(path, problems)


def _good(
    path: Path, audio_root: str, problems: list[tuple[int, str]], ids: "array[int]", numbers: "array[int]"
) -> Iterator[Any]:
    """The good rows; what is wrong with others goes into `problems`, hashes of ids and numbers of rows beside it."""
    for number, item in enumerate(stream_rows(path, audio_root)):
        found = [str(item)] if isinstance(item, ParseError) else check_row(item, None)
        if found:
            problems += [(number, problem) for problem in found]
            continue
        ids.append(hash(item.get("testset_id") or default_id(number)))
        numbers.append(number)
        yield item


def _alike(ids: "array[int]", numbers: "array[int]") -> set[int]:
    """Numbers of the rows whose hashes are those of other rows too."""
    hashes = np.frombuffer(ids, np.int64) if ids else np.zeros(0, np.int64)
    order = np.argsort(hashes, kind="stable")
    same = hashes[order[1:]] == hashes[order[:-1]]
    positions = np.union1d(order[1:][same], order[:-1][same])
    return {numbers[position] for position in positions.tolist()}


def _file_problems(path: Path, audio_root: str) -> Iterator[tuple[int, str]]:
    """What is wrong with the files of the rows that are good themselves."""
    look = file_looker(audio_root)
    for number, item in enumerate(stream_rows(path, audio_root)):
        if not isinstance(item, ParseError) and not check_row(item, None):
            for name in (item["path"], *(item.get("expand_wav") or ())):
                problem, _ = look(name)
                if problem is not None:
                    yield number, problem


def _look_at_files(table: RowTable, path: Path, audio_root: str) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """A number for each row that changes with its files.

    Raises:
        DataError: files are missing or empty; the message names every row.
    """
    look = file_looker(audio_root)
    stamps, problems = np.zeros(len(table), np.int64), []
    for number, names in enumerate(table.names()):
        looks = [look(name) for name in names]
        problems += [(number, problem) for problem, _ in looks if problem is not None]
        stamps[number] = looks[0][1] if len(looks) == 1 else hash(tuple(stamp for _, stamp in looks))
    refuse(path, problems)
    return stamps


def _lengths(file: Path, count: int) -> "np.ndarray[Any, Any]":
    """What is kept of so many clips' lengths; zeros where nothing is, or it is damaged."""
    if file.exists():
        try:
            known = np.load(file)
            if known.dtype == LENGTH and known.shape == (count,):
                return np.asarray(known)
        except (OSError, ValueError, EOFError):
            say(f"{file} is damaged; it is made again")
    return np.zeros(count, LENGTH)
