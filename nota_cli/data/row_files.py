"""The audio files that rows name, looked for before any of them is decoded."""

import functools
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nota_cli.errors import DataError, printable
from nota_cli.paths import audio_path, check_audio_root, path_note, tar_member

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
        size, _, is_folder = file_state(file)
    except (FileNotFoundError, NotADirectoryError):
        note = path_note(name, audio_root)
        remedy = note[0].lower() + note[1:-1] if note else "correct `path` or the audio root"
        return f"there is no file {label}; {remedy}"
    except OSError as error:
        return f"cannot look at {label}: {error.strerror}"
    except DataError as error:
        return f"cannot look at {label}: {error}"
    except ValueError:  # a NUL in it
        return f"no file can have the name {label}; correct it"
    if is_folder:
        return f"{label} is a folder, not an audio file"
    return None if size else f"{label} is empty (0 bytes); fetch it again or remove the row"


def file_state(file: str | os.PathLike[str]) -> tuple[int, int, bool]:
    """Bytes of a file, when it was changed [ns], and whether it is a folder; of a member of a shard, when that was.

    Raises:
        OSError: there is none, or the system does not tell.
        DataError: the shard is no tar file.
        ValueError: no file can have the name.
    """
    member = tar_member(file)
    if member is None:
        status = os.stat(file)
        return status.st_size, status.st_mtime_ns, stat.S_ISDIR(status.st_mode)
    from nota_cli.data.audio.shards import member_status  # numpy, which most annotations do without

    size, changed = member_status(*member)
    return size, changed, False


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
            size, changed, is_folder = file_state(audio_path(audio_root, name))
        except (OSError, ValueError, DataError):
            return file_problem(name, audio_root), 0
        if size and not is_folder:
            return None, hash((size, changed))
        return file_problem(name, audio_root), 0

    return look
