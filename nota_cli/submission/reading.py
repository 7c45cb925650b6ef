"""Bytes to records in one pass: encoding, line ends, odd characters and quoting are judged on the way."""

import codecs
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from nota_cli.errors import DataError, UsageError
from nota_cli.files import refuse_lfs_pointer
from nota_cli.submission.problems import Log

BLOCK = 1 << 20
_MAGIC = {
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"\xd0\xcf\x11\xe0": "an Excel spreadsheet",
    b"\x1f\x8b": "a gzip archive",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF",
    b"{\\rtf": "a word processor's document",
}
_WIDE = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_CONTROL = re.compile(r"[\x01-\x1f\x7f-\x9f]")
# Not the two joiners between other letters than ASCII: several scripts, and emoji, are written with them.
INVISIBLE = re.compile(
    r"[\u00a0\u00ad\u034f\u061c\u1680\u180e\u2000-\u200b\u200e\u200f\u2028-\u202f\u205f-\u2064\u2066-\u206f\u3000\ufeff]"
    r"|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
)
_WRONGLY_DECODED = re.compile("\ufffd|[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac")
_ROW = re.compile(r'"?test[0-9]{4}"?[,;\t|]')
_QUOTED = re.compile(r'([^",]+),"([^"]*+(?:""[^"]*+)*+)"')
_CLOSE = re.compile(r'[^"]*+(?:""[^"]*+)*+"')
_NAMES = {"\u00a0": "a no-break space", "\u200b": "a zero-width space", "\ufeff": "a byte order mark", "\t": "a tab"}


class Record(NamedTuple):
    """The fields of one CSV record and the line it starts at, counted from 1."""

    line: int
    fields: list[str]


def parse(path: Path, log: Log, delimiter: str | None = None) -> Iterator[Record]:
    """Every record of a CSV, blank lines left out; what the reading itself brings to light goes to the log.

    Bytes that are no UTF-8 come out as lone surrogates (`surrogateescape`). A quote that is not closed before the next
    row, or at all, is dropped and the rows below are read as rows.

    Args:
        path: the file.
        log: where problems go.
        delimiter: what separates fields; without it the first line tells.

    Raises:
        UsageError: the file is not there or cannot be opened.
        DataError: it is a Git LFS pointer.
    """
    try:
        file = Path(path).open("rb")  # noqa: SIM115 closed below, the generator's own `with`
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}. Give the path of a submission CSV.") from error
    with file:
        head = file.peek(4096)[:4096]
        refuse_lfs_pointer(path, head, DataError)
        if label := _binary(head):
            log.add("not-text", f"this is {label}, not a CSV", 1, byte=0)
            return
        wide = _wide(head)
        if wide:
            log.add("utf-16", f"the file is {wide.upper()} text, not UTF-8", 1, byte=0)
        raw = _decoded_lines(file, wide) if wide else _raw_lines(file)
        yield from _records(_lines(raw, log, wide is not None, delimiter), log, delimiter)


def _binary(head: bytes) -> str | None:
    for magic, label in _MAGIC.items():
        if head.startswith(magic):
            return label
    strange = sum(byte < 9 or 13 < byte < 32 for byte in head)
    return "a binary file" if _wide(head) is None and strange >= 8 and strange > len(head) / 10 else None


def _wide(head: bytes) -> str | None:
    """The two- or four-byte encoding of a file, by its mark or, as its text is mostly ASCII, by where the NULs are."""
    for mark, name in _WIDE:
        if head.startswith(mark):
            return name
    half = len(head) // 2
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if half >= 4 and odd > 0.4 * half and even < 0.05 * half:
        return "utf-16-le"
    return "utf-16-be" if half >= 4 and even > 0.4 * half and odd < 0.05 * half else None


def _raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines with their ends, which may be LF, CRLF or CR."""
    tail = b""
    while block := file.read(BLOCK):
        lines = (tail + block).splitlines(keepends=True)
        # The last one may go on in the next block, and an LF may follow its CR.
        tail = b"" if block.endswith(b"\n") else lines.pop()
        yield from lines
    if tail:
        yield tail


def _decoded_lines(file: BinaryIO, encoding: str) -> Iterator[bytes]:
    for line in io.TextIOWrapper(file, encoding, errors="replace", newline=""):
        yield line.encode("utf-8", "replace")


def _lines(raw: Iterator[bytes], log: Log, wide: bool, delimiter: str | None) -> Iterator[tuple[int, str]]:
    """Number and content of every line."""
    offset = number = crs = crlfs = first_cr = first_crlf = first_lf = 0
    for data in raw:
        number += 1
        if number == 1 and data.startswith(codecs.BOM_UTF8):
            log.add("bom", "the file begins with a byte order mark", 1, byte=0)
            data, offset = data[3:], 3
        try:
            line = data.decode()
        except UnicodeDecodeError as error:
            line = data.decode("utf-8", "surrogateescape")
            column = len(data[: error.start].decode("utf-8", "surrogateescape")) + 1
            message = f"the byte 0x{data[error.start]:02x} is not UTF-8"
            log.add("encoding", message, number, _id(line), column=column, byte=offset + error.start)
        if line.endswith("\n"):
            if line.endswith("\r\n"):
                crlfs, first_crlf = crlfs + 1, first_crlf or number
                line = line[:-2]
            else:
                first_lf = first_lf or number
                line = line[:-1]
        elif line.endswith("\r"):
            crs, first_cr = crs + 1, first_cr or number
            line = line[:-1]
        if delimiter is None and line.strip(" \t"):
            delimiter = _delimiter(line)
        if not line.isprintable() or not line.isascii():
            _odd_characters(line.replace("\t", " ") if delimiter == "\t" else line, number, offset, log)
        offset += len(data)
        yield number, line
    if crs:
        log.add("bare-cr", f"{crs:,} of {number:,} lines end in a bare carriage return", first_cr)
    if crlfs and first_lf:
        message = f"{crlfs:,} of {number:,} lines end as on Windows (CR LF), others as on Unix (LF)"
        log.add("mixed-line-ends", message, max(first_crlf, first_lf))


def _odd_characters(line: str, number: int, offset: int, log: Log) -> None:
    """One problem of each kind a line."""
    name = _id(line)
    at = line.find("\0")
    if at >= 0:
        byte = offset + len(line[:at].encode("utf-8", "surrogateescape"))
        log.add("nul", "the line holds a NUL byte", number, name, column=at + 1, byte=byte)
    for code, pattern in (("control-character", _CONTROL), ("invisible-character", INVISIBLE)):
        if match := pattern.search(line):
            what = _NAMES.get(match[0], f"the character U+{ord(match[0]):04X}")
            log.add(code, f"the line holds {what}", number, name, column=match.start() + 1)
    if match := _WRONGLY_DECODED.search(line):
        message = f"the line holds {match[0]!r}, which is what text decoded wrongly looks like"
        log.add("replacement-character", message, number, name, column=match.start() + 1)


def _id(line: str) -> str | None:
    match = _ROW.match(line)
    return match[0].strip('",;\t|') if match else None


def _delimiter(header: str) -> str:
    """What separates the columns of a header, or of a first row."""
    counted = {mark: header.count(mark) for mark in ",;\t|"}
    return "," if counted[","] else max(counted, key=lambda mark: counted[mark])


class _Splitter:
    """The fields of a record whose lines are given one after another, as pandas and Python's csv split them."""

    def __init__(self, delimiter: str):
        self.delimiter = delimiter
        self.fields: list[str] = []
        self.pieces: list[str] = []  # of a quoted field that is not closed yet
        self.open_at: int | None = None  # the column of its quote
        self.stray_at: int | None = None

    def feed(self, line: str) -> bool:
        """Take a line in; True if the record goes on in the next one."""
        at = 0
        while True:
            if self.pieces or line.startswith('"', at):
                if not self.pieces:
                    self.open_at = at + 1
                    at += 1
                close = _CLOSE.match(line, at)
                if close is None:
                    self.pieces.append(line[at:].replace('""', '"') + "\n")
                    return True
                value = "".join(self.pieces) + close[0][:-1].replace('""', '"')
                self.pieces = []
                at = close.end()
                end = self._end(line, at)
                if end > at:
                    self.stray_at = self.stray_at or at
                    value += line[at:end]
            else:
                end = self._end(line, at)
                value = line[at:end]
                if '"' in value:
                    self.stray_at = self.stray_at or at + value.index('"') + 1
            self.fields.append(value)
            if end == len(line):
                return False
            at = end + 1

    def _end(self, line: str, at: int) -> int:
        end = line.find(self.delimiter, at)
        return len(line) if end < 0 else end


def _records(lines: Iterator[tuple[int, str]], log: Log, delimiter: str | None) -> Iterator[Record]:
    given_back: list[tuple[int, str]] = []  # the next line is the last of these
    while True:
        number, line = given_back.pop() if given_back else next(lines, (0, ""))
        if not number:
            return
        # pandas skips lines of nothing or white space alone, but a line of one quoted nothing is a row to it.
        if not line or (line.isspace() and not line.strip(" \t")):
            continue
        if delimiter is None:
            log.delimiter = delimiter = _delimiter(line)
            if delimiter != ",":
                name = {";": "semicolons", "\t": "tabs"}.get(delimiter, "vertical bars")
                log.add("delimiter", f"the columns are separated by {name}", number)
        if '"' not in line:
            yield Record(number, line.split(delimiter))
            continue
        if delimiter == "," and (match := _QUOTED.fullmatch(line)):  # what most quoted rows are
            yield Record(number, [match[1], match[2].replace('""', '"')])
            continue
        record = _Splitter(delimiter)
        if record.feed(line):
            held: list[tuple[int, str]] = []
            while True:
                following = given_back.pop() if given_back else next(lines, (0, ""))
                if following[0]:
                    held.append(following)
                if not following[0] or _ROW.match(following[1]):
                    _unclosed(record, number, line, following[0], log)
                    given_back += reversed(held)
                    break
                if not record.feed(following[1]):
                    break
        if record.stray_at is not None:
            log.add("stray-quote", "a quote stands inside a text", number, _id(line), column=record.stray_at)
        yield Record(number, record.fields)


def _unclosed(record: _Splitter, number: int, line: str, next_row: int, log: Log) -> None:
    """Make the record what its first line alone gives, with the quote dropped."""
    before = f"before the next row, line {next_row:,}" if next_row else "at all"
    log.add(
        "unclosed-quote", f"a quote is opened here and not closed {before}", number, _id(line), column=record.open_at
    )
    again = _Splitter(record.delimiter)
    again.feed(line)
    if again.pieces:
        again.fields.append(again.pieces[0][:-1])
    record.fields, record.stray_at = again.fields, None
