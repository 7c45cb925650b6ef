"""Recordings that a person names on the command line: files, folders, globs and stdin to a list of files."""

import fnmatch
import glob
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nota_cli.data.annotation import Row
from nota_cli.errors import UsageError, printable

STDIN = "-"
SUFFIXES = frozenset(
    f".{name}"
    for names in (
        "wav wave rf64 w64 aif aifc aiff au caf nist snd sph voc",
        "flac ape wv mp2 mp3 mpga oga ogg opus",
        "3ga aac ac3 amr awb m4a m4b mka mp4 ra webm wma",
    )
    for name in names.split()
)
"""Names of sounds; such a file in a folder that cannot be decoded is an error, not passed over."""

STARTS = (
    re.compile(rb"(RIFF|RF64).{4}WAVE", re.DOTALL),
    re.compile(rb"FORM.{4}AIF[FC]", re.DOTALL),
    re.compile(rb".{4}ftyp(M4A|M4B)", re.DOTALL),
    re.compile(rb"fLaC|OggS|ID3|caff|\.snd|#!AMR|wvpk|NIST_1A\n|Creative Voice"),
)
"""How sounds begin, for files in folders whose names do not tell."""

PASSED_OVER_NAMED = 3  # files that the line about passed-over ones names


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording.

    Attributes:
        name: as a person knows it, on one line: the path as it was given, or `-` for stdin.
        path: the file to read.
    """

    name: str
    path: Path


@dataclass
class Recordings:
    """What the words of a command line name.

    Attributes:
        files: each once, in the order of the words, a folder's and a glob's in natural order (`take2` before `take10`).
        passed_over: files of folders and globs that are no recordings.
        repeated: how many files were named again.
        single: one word named one file, no folder and no glob.
    """

    files: list[Recording] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    repeated: int = 0
    single: bool = False

    @property
    def notes(self) -> list[str]:
        """What a person should know of the choice, a sentence each."""
        notes = []
        if self.passed_over:
            count, names = len(self.passed_over), [printable(name) for name in self.passed_over[:PASSED_OVER_NAMED]]
            more = ", ..." if count > PASSED_OVER_NAMED else ""
            kind = "file is not a recording and is" if count == 1 else "files are not recordings and are"
            notes.append(f"{count} {kind} skipped: {', '.join(names)}{more}")
        if self.repeated:
            kind = "file was named more than once and is" if self.repeated == 1 else "files were named again and are"
            notes.append(f"{self.repeated} {kind} read once")
        return notes


def recording_rows(recordings: Sequence[Recording], task: str) -> list[Row]:
    """One row a recording for a run without an annotation; its id is the recording's name."""
    return [
        Row(index, str(each.path), task, None, None, each.name, (), listed=False)
        for index, each in enumerate(recordings)
    ]


@contextmanager
def named_recordings(words: Sequence[str]) -> Iterator[Recordings]:
    """The recordings that `words` name; stdin is kept in a temporary file inside the block.

    A word is `-` (stdin), a file, a folder (with the folders in it; hidden files are left out, links followed) or a
    glob such as `calls/**/*.wav`. A file that is named itself is taken whatever it is; what is wrong with it shows when
    it is read. Of folders and globs only recordings are taken: files with a sound's ending or a sound's first bytes.

    Raises:
        UsageError: a glob or folder without a recording, an annotation file, or stdin is a terminal.
    """
    chosen = Recordings()
    seen: set[str] = set()
    with ExitStack() as stack:
        for word in words:
            if word in (STDIN, "/dev/stdin"):
                names = [STDIN]
            else:
                names, passed_over = _named(_expanded(word))
                chosen.passed_over += passed_over
            for name in names:
                key = name if name == STDIN else os.path.abspath(name)
                if key in seen:
                    chosen.repeated += 1
                    continue
                seen.add(key)
                path = _stdin(stack) if name == STDIN else Path(name)
                chosen.files.append(Recording(STDIN if name == STDIN else printable(str(path)), path))
        chosen.single = len(words) == 1 and not stands_for_several(words[0])
        chosen.passed_over = [name for name in dict.fromkeys(chosen.passed_over) if os.path.abspath(name) not in seen]
        yield chosen


def stands_for_several(word: str) -> bool:
    """Whether a word is a folder or a glob."""
    word = _expanded(word)
    return os.path.isdir(word) or (glob.has_magic(word) and not os.path.lexists(word))


def _expanded(word: str) -> str:
    """A word with the `~` that a shell leaves where it is quoted."""
    return os.path.expanduser(word) if word.startswith("~") and not os.path.lexists(word) else word


def _named(word: str) -> tuple[list[str], list[str]]:
    """Recordings and other files that a word names."""
    if not word.strip():
        raise UsageError("a recording's name is empty; write a file, a folder, a glob, or - for stdin")
    label = printable(word)
    if os.path.isdir(word):
        recordings, others = _split(_walk(word, set()))
        if not recordings:
            besides = f" (it has {_files(len(others))} of other kinds)" if others else ""
            raise UsageError(f"there is no recording in the folder {label}{besides}. Name a file or another folder.")
        return recordings, others
    if not stands_for_several(word):
        if word.lower().endswith((".json", ".jsonl")):
            raise UsageError(f"{label} is no recording; if it is an annotation: nota infer --annotation {label}")
        return [word], []
    recordings, others = _split(_matching(word))
    if not recordings:
        what = f"none of the {_files(len(others))} is a recording" if others else "no such file"
        raise UsageError(f"{label}: {what}. Check the folder and the ending; ** stands for folders of any depth.")
    return recordings, others


def _matching(pattern: str) -> Iterator[str]:
    """Files that a glob matches, and those of folders that it matches, in natural order."""
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    visited: set[tuple[int, int]] = set()
    if "**" not in parts:
        for match in sorted(glob.glob(pattern), key=_natural):
            yield from _walk(match, visited) if os.path.isdir(match) else [match]
        return
    # `glob` would follow links that lead in a circle, dozens of times.
    first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    root = "/" * pattern.startswith("/") + "/".join(parts[:first]) or "."
    if os.path.isdir(root):
        yield from (f for f in _walk(root, visited) if _fits(os.path.relpath(f, root).split("/"), parts[first:]))


def _fits(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path, or a folder that it lies in, is what a pattern with `**` matches."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_fits(names[start:], pattern[1:]) for start in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], pattern[0]) and _fits(names[1:], pattern[1:])


def _walk(folder: str, visited: set[tuple[int, int]]) -> Iterator[str]:
    """Files of a folder and of those in it, in natural order; links to folders are followed, each folder once.

    Raises:
        UsageError: a folder cannot be opened.
    """
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in visited:
            return
        visited.add((status.st_dev, status.st_ino))
        names = sorted(os.listdir(folder), key=_natural)
    except OSError as error:
        raise UsageError(f"cannot open the folder {printable(folder)}: {error.strerror}.") from error
    folders = []
    for name in names:
        path = os.path.join(folder, name)
        if name.startswith("."):
            continue
        if os.path.isdir(path):
            folders.append(path)
        else:
            yield path
    for path in folders:
        yield from _walk(path, visited)


def _split(files: Iterable[str]) -> tuple[list[str], list[str]]:
    """Recordings and others."""
    recordings: list[str] = []
    others: list[str] = []
    for file in files:
        (recordings if _is_recording(file) else others).append(file)
    return recordings, others


def _is_recording(file: str) -> bool:
    if os.path.splitext(file)[1].lower() in SUFFIXES:
        return True
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            return False  # opening a pipe would wait for its writer
        with open(file, "rb") as opened:
            start = opened.read(16)
    except OSError:
        return False
    return any(pattern.match(start) for pattern in STARTS)


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _natural(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """A sorting key by which numbers count as numbers: `take2`, `Take2`, `take10`."""
    parts = re.split(r"([0-9]+)", name)
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part.casefold()) for part in parts], name


def _stdin(stack: ExitStack) -> Path:
    """What stdin holds, in a file that goes with `stack`.

    Raises:
        UsageError: it is closed or a terminal.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("`-` reads a recording from stdin, and stdin is a terminal. Write: nota ... - < my.wav")
    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nota-"))) / "stdin"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path
