"""Finished rows on disk as soon as they are finished: one JSON line each, behind a header that says of which run."""

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nota_cli.errors import DataError, NotaError, UsageError, listing
from nota_cli.files import sync

FORMAT = 1
DONE, BLANK, SKIPPED = "done", "blank", "skipped"
ROOT, RECORDINGS = "audio_root", "recordings"  # keys of a run key: where recordings lie, and their sizes and times
MISSING = "nothing"  # how a value that one of two run keys lacks is shown


@dataclass(frozen=True, slots=True)
class Entry:
    """One row and what became of it.

    Attributes:
        row: its position in the run.
        text: its cell in the CSV.
        status: `done`; `blank` and `skipped` for a row whose audio could not be used.
        looped: the answer repeated itself (see `generate.loop_guard`).
        reason: why the audio could not be used.
        seconds: the clip's length; 0 where its audio could not be used.
        notes: what is odd about its audio, sentences by kind (`nota_cli.data.audio.clip.AudioNote`).
    """

    row: int
    text: str
    status: str = DONE
    looped: bool = False
    reason: str = ""
    seconds: float = 0.0
    notes: dict[str, str] = field(default_factory=dict)


def journal_path(out: Path, rank: int | None = None) -> Path:
    """Beside the CSV; with its number for a process that is one of many."""
    return out.with_name(f"{out.name}.journal" + ("" if rank is None else f".{rank}"))


def rank_journals(out: Path) -> list[Path]:
    """The journals of processes that were one of many, by number."""
    first = journal_path(out).name + "."
    files = [path for path in out.parent.glob("*") if path.name.startswith(first)]
    return sorted((path for path in files if path.suffix[1:].isdigit()), key=lambda path: int(path.suffix[1:]))


class Journal:
    """An open journal that this process alone writes to.

    What a kill or a full disk left of a last line is cut off. Entries are on the disk when `append` returns.

    Args:
        path: the file; it is made if it is not there.
        run_key: what the run's texts depend on, as JSON values.
        restart: throw away what is there.
        moved: the audio root may be another one. It always may where sizes and times of its recordings agree.

    Raises:
        UsageError: it cannot be opened, another process is writing to it, or it is of a run with another run key.
        DataError: it is no journal.
    """

    def __init__(self, path: Path, run_key: dict[str, Any], *, restart: bool = False, moved: bool = False) -> None:
        self.path, self.run_key, self._moved = path, run_key, moved
        self._rows = -1  # not known yet
        self._file = -1
        self._open()
        try:
            if restart:
                os.ftruncate(self._file, 0)
            self._end = self._whole_lines()
            os.ftruncate(self._file, self._end)
            if self._end:
                self._check(next(self._lines()))
                self._rows = sum(1 for _ in self._lines()) - 1
            else:
                self._rows = 0
                self._write({"nota_journal": FORMAT, "stamp": run_key})
                _sync_folder(path.parent)
        except BaseException as error:
            with suppress(OSError):
                self.close()
            if isinstance(error, OSError):
                message = f"cannot keep a journal at {path}: {error.strerror}. Choose another output path."
                raise UsageError(message) from error
            raise

    def append(self, entries: list[Entry]) -> None:
        """Add rows, and wait until they are on the disk.

        Raises:
            NotaError: the disk is full or fails; the journal stays as it was.
        """
        if entries:
            self._rows += len(entries)
            self._write(*(asdict(entry) for entry in entries))

    def entries(self) -> Iterator[Entry]:
        """What the journal holds; lines that are damaged are left out, so that their rows are done again."""
        lines = self._lines()
        next(lines)
        for line in lines:
            entry = _entry(line)
            if entry is not None:
                yield entry

    def close(self) -> None:
        """Give the journal up; the file stays, unless it holds no rows."""
        if self._file < 0:
            return
        if self._rows == 0:
            self.path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1

    def remove(self) -> None:
        """Give the journal up, file and all."""
        self._rows = 0
        self.close()

    def _open(self) -> None:
        """Open and lock the file that has the name then: whoever held the lock before may have removed his."""
        while True:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise UsageError(f"cannot write {self.path}: {error.strerror}. Choose another output path.") from error
            try:
                self._lock()
                if os.path.samestat(os.fstat(self._file), os.stat(self.path)):
                    return
            except FileNotFoundError:
                pass
            except BaseException:
                self.close()
                raise
            os.close(self._file)

    def _lock(self) -> None:
        """Locks of this kind end with the process, and its children, which may outlive it a little, have none."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                return  # a file system without locks; two runs at a time would do rows twice and lose none
            raise UsageError(
                f"{self.path}: another nota infer is writing there. Wait for it, or choose another --out."
            ) from None

    def _write(self, *values: dict[str, Any]) -> None:
        data = "".join(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n" for value in values)
        left = memoryview(data.encode("utf-8", "surrogatepass"))
        size = len(left)
        try:
            os.lseek(self._file, self._end, os.SEEK_SET)
            while left:
                left = left[os.write(self._file, left) :]
            sync(self._file)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise NotaError(
                f"cannot write {self.path}: {error.strerror}. Rows finished before are kept there: make room, and the "
                "same command goes on."
            ) from error
        self._end += size

    def _whole_lines(self) -> int:
        """Bytes up to the last line's end."""
        end = os.fstat(self._file).st_size
        while end:
            start = max(0, end - 65536)
            cut = os.pread(self._file, end - start, start).rfind(b"\n")
            if cut >= 0:
                return start + cut + 1
            end = start
        return 0

    def _lines(self) -> Iterator[bytes]:
        """Every line. Not by opening the file again: closing that would give up the lock."""
        rest, offset = b"", 0
        while offset < self._end:
            block = os.pread(self._file, min(1 << 20, self._end - offset), offset)
            offset += len(block)
            *lines, rest = (rest + block).split(b"\n")
            yield from lines

    def _check(self, header: bytes) -> None:
        there = _json(header)
        if (
            not isinstance(there, dict)
            or there.get("nota_journal") != FORMAT
            or not isinstance(there.get("stamp"), dict)
        ):
            raise DataError(f"{self.path} is not a journal of this version of nota; --restart throws it away.")
        before, now = (
            {name: value for name, value in key.items() if name != RECORDINGS} for key in (there["stamp"], self.run_key)
        )
        hint = ""
        if before.get(ROOT) != now.get(ROOT):
            # In the same folder a recording may have been mended since; in another one they must be the same.
            recordings = self.run_key.get(RECORDINGS)
            if self._moved or (recordings is not None and there["stamp"].get(RECORDINGS) == recordings):
                now[ROOT] = before.get(ROOT)
            else:
                hint = "If the recordings are the same and only lie elsewhere now, add --audio-root-moved. "
        changed = differences(before, now)
        if changed:
            raise UsageError(
                f"{self.path} holds finished rows of a run that was cut off, and since then has changed:\n"
                f"{listing(changed)}\n"
                f"{hint}Undo that to go on with it, throw it away with --restart, or choose another --out."
            )


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """One line for each value, named by the keys that lead to it, that is not the same in both."""
    before, after = dict(_flat(there)), dict(_flat(here))
    return [
        f"{key}: it was {before.get(key, MISSING)}, it is {after.get(key, MISSING)}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key, MISSING) != after.get(key, MISSING)
    ]


def _sync_folder(folder: Path) -> None:
    """So that the file's name outlives a loss of power, too."""
    with suppress(OSError):  # some network file systems refuse
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _entry(line: bytes) -> Entry | None:
    values = _json(line)
    try:
        entry = Entry(**values)
    except TypeError:
        return None
    known = isinstance(entry.row, int) and isinstance(entry.text, str) and isinstance(entry.notes, dict)
    return entry if known and entry.status in (DONE, BLANK, SKIPPED) else None


def _json(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8", "surrogatepass"))
    except ValueError:
        return None
