"""Looks at the headers of every row's audio before a run, so that all bad files are known at once."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from nota_cli.data.annotation import Row, row_id
from nota_cli.data.audio.clip import EXPANSION_GAP_SECONDS, stated_duration
from nota_cli.errors import AudioError, listing, listing_by_row, printable
from nota_cli.paths import audio_path, check_audio_root, path_note, tar_member

ROWS_AT_ONCE = 128  # that a thread takes; so few jobs wait, however many rows there are


@dataclass(frozen=True, slots=True)
class FileProblem:
    """A file that a row names and that cannot be used.

    Attributes:
        row: the row's place in the annotation, counted from 0.
        id: the row's id in a submission.
        path: the file, as it is shown: on one line, what no terminal can print escaped.
        reason: what is wrong with it, in a few words.
        remedy: what to do about it, a sentence.
        listed: an annotation has the row; otherwise the file itself was named on the command line.
    """

    row: int
    id: str
    path: str
    reason: str
    remedy: str
    listed: bool = True

    def __str__(self) -> str:
        return f"row {self.row} ({self.id}): {self.problem}" if self.listed else self.problem

    @property
    def problem(self) -> str:
        """File, reason and remedy."""
        return f"{self.path}: {self.reason}. {self.remedy}"


def bad_file(row: Row, error: AudioError) -> FileProblem:
    """What an error says of a file of a row; stdin and files named on the command line go by the name given there."""
    name = printable(row_id(row))
    return FileProblem(row.index, name, error.path if row.listed else name, error.reason, error.remedy, row.listed)


class Scan(list[FileProblem]):
    """The bad files, in the rows' order, and what else the headers told.

    Attributes:
        durations: for each row the seconds of its clip, or None where a file of it is bad or its header does not say.
    """

    def __init__(self, bad: Iterable[FileProblem] = (), durations: Iterable[float | None] = ()) -> None:
        super().__init__(bad)
        self.durations = list(durations)


def scan(
    rows: Sequence[Row],
    audio_root: str | os.PathLike[str],
    *,
    workers: int = 8,
    whole: bool = False,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Scan:
    """Find every file of the rows, `expand_wav` included, that is not there or whose header is no sound's.

    Refused besides what `sound_file.sounds` refuses: paths that leave the audio root, by `..` or by being absolute.
    Where a symbolic link in it leads is its owner's business. Only headers are read, of each file once, so
    what is wrong further inside shows when the file is decoded; but where a header only guesses the length, as that of
    an MP3 does, the file is counted.

    Args:
        rows: annotation rows.
        audio_root: the folder that their paths are relative to.
        workers: threads that read headers.
        whole: read FLAC files to their ends, for others that were joined to them; else these show when decoded.
        on_progress: told how many more rows are done, in this thread.

    Raises:
        UsageError: the audio root is no folder.

    Returns:
        The bad files; none is good news. `durations` has each clip's length.
    """
    if rows:
        check_audio_root(audio_root)
    scanner = _HeaderScanner(audio_root, whole)
    problems = Scan()
    groups = (rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE))
    pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="scan")
    try:
        for bad, durations in pool.map(scanner.group, groups):
            problems += bad
            problems.durations += durations
            on_progress(len(durations))
    finally:
        pool.shutdown(cancel_futures=True)
    return problems


def describe(bad: Sequence[FileProblem], limit: int = 20) -> str:
    """The bad files one a line, and beyond `limit` of them the numbers of their rows."""
    if all(not each.listed for each in bad):
        return listing([each.problem for each in bad], limit)
    return listing_by_row(((each.row, f"({each.id}) {each.problem}") for each in bad), limit)


@dataclass
class _HeaderScanner:
    """Looks at files under one root, at each once; threads share it."""

    audio_root: str | os.PathLike[str]
    whole: bool = False
    roots: tuple[str, ...] = ()
    seen: dict[str, float | None | AudioError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        root = os.fspath(self.audio_root)
        self.roots = tuple({os.path.join(path, "") for path in (os.path.abspath(root), os.path.realpath(root))})

    def group(self, rows: Sequence[Row]) -> tuple[list[FileProblem], list[float | None]]:
        bad: list[FileProblem] = []
        durations: list[float | None] = []
        for row in rows:
            seconds: float | None = EXPANSION_GAP_SECONDS * len(row.expand)
            for name in (row.path, *row.expand):
                outcome = self.file(name, row)
                if isinstance(outcome, AudioError):
                    bad.append(bad_file(row, outcome))
                    outcome = None
                seconds = None if seconds is None or outcome is None else seconds + outcome
            durations.append(seconds)
        return bad, durations

    def file(self, name: str, row: Row) -> float | None | AudioError:
        """Seconds of the file, None where its header does not say, or what is wrong with it."""
        if name not in self.seen:
            self.seen[name] = self._file(name, row)
        return self.seen[name]

    def _file(self, name: str, row: Row) -> float | None | AudioError:
        path = audio_path(self.audio_root, name) if row.listed else os.path.join(self.audio_root, name)
        note = None if os.path.lexists(path) or tar_member(path) else path_note(name, self.audio_root)
        leaves = row.listed and (".." in name or name.startswith(("/", "~", "file:/")))
        if leaves and not self._inside(path) and (note is None or ".." in name):
            root = printable(os.fspath(self.audio_root))
            remedy = "Name a folder above it by --audio-root, or correct the path in the annotation."
            return AudioError(printable(path), f"lies outside the audio root {root}", remedy)
        try:
            return stated_duration(path, row=row.number, whole=self.whole)
        except AudioError as error:
            # A new one, without what the other holds of its frames.
            return AudioError(error.path, error.reason, error.remedy if note is None else note)

    def _inside(self, path: str) -> bool:
        return os.path.join(os.path.abspath(path), "").startswith(self.roots)
