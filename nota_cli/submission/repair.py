"""A repaired copy of a submission: what can be mended without making up a word, and a list of what was changed."""

import filecmp
import re
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from nota_cli.errors import DataError, UsageError
from nota_cli.files import atomic_path, check_writable
from nota_cli.submission.problems import ERROR, Log, printable
from nota_cli.submission.reading import INVISIBLE, parse
from nota_cli.submission.rows import COLUMNS, READ_AS_NAN, Layout, nearly_id, read_header
from nota_cli.submission.texts import END_SYMBOL, OTHER_SYMBOL

_OF_THE_FILE = {
    "bom": "byte order mark removed",
    "utf-16": "written as UTF-8",
    "bare-cr": "line ends written as on Unix",
    "mixed-line-ends": "line ends written as on Unix",
    "delimiter": "columns separated by commas",
    "unclosed-quote": "quote removed, the rows below are rows again",
    "stray-quote": "text quoted as a whole",
}
_FOREIGN_BYTE = re.compile("(?<![\udc80-\udcff])[\udc80-\udcff](?![\udc80-\udcff])")
_BLANK_CONTROL = re.compile("[\t\v\f\x1c-\x1f\x85]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
_OTHER_AND_BLANKS = re.compile(rf"\s*(?:{OTHER_SYMBOL.pattern})\s*", re.IGNORECASE)
_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")


@dataclass
class Repair:
    """What was changed on the way from one file to another: `changes` by code, with lines of the first file."""

    path: Path
    out: Path
    changes: Log = field(default_factory=Log)


def repair(path: Path, out: Path, *, in_place: bool = False) -> Repair:
    """Write a copy of a submission with everything mended that can be without making up a word.

    Mended are encoding (UTF-16; single bytes of Windows-1252), line ends, quotes, separators, the header and its order,
    blanks and capitals round an id, commas outside quotes, odd characters, end symbols with what follows, and capitals
    of texts that pandas reads as missing; rows that say the same twice become one. Nothing else is touched: a copy may
    still have problems, which `examine` lists. A copy of a copy is the same file.

    Raises:
        UsageError: `path` cannot be read, `out` cannot be written, or both are one file and not `in_place`.
        DataError: the file is empty, no text, or has columns that cannot be told.
    """
    path, out = Path(path), Path(out)
    if not in_place and out.exists() and path.exists() and out.samefile(path):
        raise UsageError(f"--fix {out} is the submission itself. Choose another output path, or add --in-place.")
    done = Repair(path, out)
    log = Log()
    records = parse(path, log)
    header = next(records, None)
    layout = read_header(header) if header else Layout(known=False)
    if header is None or not layout.known:
        errors = [problem.message for problem in log.problems if problem.severity == ERROR]
        unknown = f"the columns are not called {' and '.join(COLUMNS)}"
        why = (errors or ["the file is empty"])[0] if header is None else unknown
        raise DataError(f"{path} cannot be repaired: {why}. Nothing was written.")
    check_writable(out)
    with atomic_path(out) as part:
        # Bytes that nobody can read go back as they were.
        with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(_line(COLUMNS))
            if header.fields != COLUMNS:
                what = "missing header added" if layout.row else f"{','.join(header.fields)[:60]!r} replaced"
                done.changes.add("header", what, header.line)
            texts: dict[str, str] = {}
            for line, fields in chain([header] if layout.row else [], records):
                kept = _row(line, fields, layout, log.delimiter, texts, done.changes)
                if kept is not None:
                    file.write(_line(kept))
        for problem in log.problems:
            if problem.code in _OF_THE_FILE:
                done.changes.add(problem.code, _OF_THE_FILE[problem.code], problem.line, problem.id)
        for code in _OF_THE_FILE:
            done.changes.counts[code] = log.counts[code]
        done.changes.counts = +done.changes.counts
        if not done.changes.counts and not filecmp.cmp(path, part, shallow=False):
            done.changes.add("layout", "blank lines left out, quotes and line ends written anew; no text changed")
    return done


def _line(fields: list[str]) -> str:
    return ",".join(map(_cell, fields)) + "\n"


def _cell(text: str) -> str:
    if not text.strip() or any(mark in text for mark in ',"\n\r'):
        return '"' + text.replace('"', '""') + '"'
    return text


def _row(
    line: int, fields: list[str], layout: Layout, separator: str, texts: dict[str, str], changes: Log
) -> list[str] | None:
    """The row as it should be; None if it has been there before."""
    name, text = layout.split(fields, separator)
    meant = nearly_id(name)
    if meant is not None and meant != name:
        changes.add("bad-id", f"{name[:60]!r} is now {meant}", line, meant)
        name = meant
    if text is None:
        return [name]
    if len(fields) > layout.width:
        changes.add("extra-fields", "the whole text quoted", line, name)
    text = mend(text, line, name, changes)
    if meant is not None:
        if texts.get(name) == text:
            changes.add("duplicate-id", "a row that says the same once more left out", line, name)
            return None
        texts.setdefault(name, text)
    return [name, text]


def mend(text: str, line: int, name: str, changes: Log) -> str:
    """A text without what is not part of it; if nothing were left, the text as it is."""
    mended: dict[str, str] = {}
    before, now = None, text
    while now != before:
        before = now
        for code, what, step in _STEPS:
            changed = step(now)
            if changed != now and changed.strip():
                mended[code] = what
                now = changed
    for code, what in mended.items():
        changes.add(code, f"{what}: {printable(now, 60)!r}", line, name)
    return now


def _bytes(text: str) -> str:
    def read(match: re.Match[str]) -> str:
        try:
            return bytes([ord(match[0]) - 0xDC00]).decode("cp1252")
        except UnicodeDecodeError:
            return match[0]

    return _FOREIGN_BYTE.sub(read, text)


def _symbols(text: str) -> str:
    head = END_SYMBOL.split(text, maxsplit=1)[0]
    if head != text and OTHER_SYMBOL.sub("", head).strip():
        text = head.rstrip()
    return _OTHER_AND_BLANKS.sub(" ", text).strip() if OTHER_SYMBOL.search(text) else text


def _capitals(text: str) -> str:
    if text not in READ_AS_NAN:
        return text
    return next((other for other in (text.lower(), text.capitalize(), text.upper()) if other not in READ_AS_NAN), text)


_STEPS = (
    ("encoding", "bytes read as Windows-1252", _bytes),
    ("line-break", "written on one line", lambda text: re.sub(r"\r\n|\r|\n", " ", text)),
    ("nul", "NUL removed", lambda text: text.replace("\0", "")),
    ("control-character", "removed", lambda text: _CONTROL.sub("", _BLANK_CONTROL.sub(" ", text))),
    ("invisible-character", "removed", lambda text: INVISIBLE.sub("", _SPACE.sub(" ", text))),
    ("special-token", "cut", _symbols),
    ("nan-text", "capitals changed", _capitals),
)
MENDS = frozenset({"header", "bad-id", "extra-fields", "duplicate-id", *_OF_THE_FILE, *(code for code, _, _ in _STEPS)})
"""Kinds of problems that `repair` may mend."""
