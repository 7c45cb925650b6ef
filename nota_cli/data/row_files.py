"""The audio files that rows name, looked for before any of them is decoded."""

import functools
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nota_cli.errors import printable
from nota_cli.paths import audio_path, check_audio_root, path_note

if TYPE_CHECKING:
    from nota_cli.data.annotation import Row

NAMES_KEPT = 2**16
"""Of so many names what was found is remembered: rows that name one file lie near each other."""


def missing_files(rows: Iterable["Row"], audio_root: Path | str) -> list[str]:
    """One message for each audio file of the rows that is missing or has no bytes; each file is looked at once."""
    return [f"row {row}: {problem}" for row, problem in missing(rows, audio_root)]


def missing(rows: Iterable["Row"], audio_root: Path | str) -> Iterator[tuple[int, str]]:
    """As `missing_files`, each message with its row's number."""
    check_audio_root(audio_root)
    verdicts: dict[str, str | None] = {}
    for row in rows:
        for name in (row.path, *row.expand):
            if name not in verdicts:
                verdicts[name] = file_problem(name, audio_root)
            problem = verdicts[name]
            if problem is not None:
                yield row.index, problem


def file_problem(name: str, audio_root: Path | str) -> str | None:
    """Why an audio file cannot be used, as far as its status tells, and what to do; None of a good one."""
    file = audio_path(audio_root, name)
    label = printable(file)
    try:
        size = os.stat(file).st_size
    except (FileNotFoundError, NotADirectoryError):
        note = path_note(name, audio_root)
        remedy = note[0].lower() + note[1:-1] if note else "correct `path` or the audio root"
        return f"there is no file {label}; {remedy}"
    except OSError as error:
        return f"cannot look at {label}: {error.strerror}"
    except ValueError:  # a NUL in it
        return f"no file can have the name {label}; correct it"
    if os.path.isdir(file):
        return f"{label} is a folder, not an audio file"
    return None if size else f"{label} is empty (0 bytes); fetch it again or remove the row"


def file_looker(audio_root: Path | str) -> Callable[[str], tuple[str | None, int]]:
    """A function from a name to its `file_problem` and to a number that changes with the file's size or time.

    It remembers the last `NAMES_KEPT` names and no more, however many rows there are.

    Raises:
        UsageError: the audio root is no folder.
    """
    check_audio_root(audio_root)

    @functools.lru_cache(maxsize=NAMES_KEPT)
    def look(name: str) -> tuple[str | None, int]:
        try:
            status = os.stat(audio_path(audio_root, name))
        except (OSError, ValueError):
            return file_problem(name, audio_root), 0
        if status.st_size and not stat.S_ISDIR(status.st_mode):
            return None, hash((status.st_size, status.st_mtime_ns))
        return file_problem(name, audio_root), 0

    return look
