"""The rows of annotations of any length, one at a time, as their files have them: JSON, JSON lines, Parquet, shards."""

import codecs
import json
import os
import re
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from nota_cli.data.annotation import KNOWN_KEYS, SHAPE, WRAP_LINES, json_kind, misspelt_keys
from nota_cli.errors import DataError, listing, printable
from nota_cli.files import refuse_lfs_pointer
from nota_cli.parsing import ParseError, parse_json
from nota_cli.paths import shard_files

CHUNK_BYTES = 2**20
LONGEST_ROW = 2**26
"""Characters. What is longer is no row, but a file that is broken somewhere before."""
LONGEST_NUMBER = 64
"""Characters: a number this close to the end of what was read may go on there."""
ROWS_AT_ONCE = 8192
BLANK = " \t\n\r"
COMMA = re.compile(rf"[{BLANK}]*,[{BLANK}]*").match
AGAIN = "Mend the file there."


def stream_rows(path: Path, audio_root: str = "") -> Iterator[Any]:
    """Every row as the file has it, unchecked; a ParseError in the place of one that cannot be read.

    Args:
        path: `{"annotation": [...]}`, or by their endings JSON lines (`.jsonl`: a row's object on each line), a
            Parquet table (`.parquet`), whose columns are named as a row's keys, or shards (`.tar`, one or, by
            `nota_cli.paths.shard_files`, several) with a row's object in `NAME.json` beside each recording `NAME.*`.
        audio_root: the folder that shards lie in; what a row's `path` begins in.

    Raises:
        DataError: it is none of these, or has no rows; the message names line or row.
        OSError: the file cannot be opened or read.
    """
    ending = path.suffix.lower()
    if ending == ".tar":
        for shard in shard_files(str(path)):
            yield from _shard_rows(shard, audio_root)
        return
    refuse_lfs_pointer(printable(str(path)), _beginning(path), DataError)
    if ending == ".parquet":
        yield from _parquet_rows(path)
        return
    with path.open("rb") as file:
        yield from _line_rows(file, path) if ending == ".jsonl" else _JsonReader(file, printable(str(path))).rows()


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)


def _line_rows(file: BinaryIO, path: Path) -> Iterator[Any]:
    empty = True
    for number, line in enumerate(file, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        empty = False
        yield _parsed(line, f"line {number}")
    if empty:
        raise DataError(f"{printable(str(path))}: has no rows. Add at least one.")


def _parquet_rows(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import parquet

    label = printable(str(path))
    try:
        with parquet.ParquetFile(path) as file:
            names: list[str] = file.schema_arrow.names
            problems = misspelt_keys(dict.fromkeys(names))
            if problems:
                raise DataError(f"{label}: its columns:\n{listing(problems)}")
            if not file.metadata.num_rows:
                raise DataError(f"{label}: has no rows. Add at least one.")
            chosen = [name for name in names if name in KNOWN_KEYS]  # columns of sound are long, and none of ours
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=chosen):
                yield from batch.to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
        raise DataError(f"{label}: cannot be read as Parquet: {str(error).splitlines()[0]}. Write it again.") from error


def _shard_rows(shard: str, audio_root: str) -> Iterator[Any]:
    from nota_cli.data.audio.shards import member_names, read_member  # it imports numpy

    start = os.path.relpath(shard, audio_root)
    if start.startswith(".."):
        raise DataError(f"{printable(shard)}: lies outside the audio root {printable(audio_root)}; name its own folder")
    groups: dict[str, list[str]] = {}
    for name in member_names(shard):
        folder, last = os.path.split(name)
        groups.setdefault(os.path.join(folder, last.partition(".")[0]), []).append(name)
    for key, names in groups.items():
        label, others = f"{printable(shard)}: {key}", [name for name in names if name != f"{key}.json"]
        if len(others) == len(names):
            yield ParseError(f"{label} has no {key}.json beside it, with the row's `text` and `task`")
            continue
        item = _parsed(read_member(shard, f"{key}.json"), f"{label}.json")
        if isinstance(item, dict) and "path" in item:
            item["path"] = f"{start}/{item['path']}"
        elif isinstance(item, dict) and len(others) == 1:
            item["path"] = f"{start}/{others[0]}"
        elif isinstance(item, dict):
            item = ParseError(f"{label}.json has {len(others)} files beside it; name the recording's by `path` in it")
        yield item


def _parsed(data: bytes, label: str) -> Any:
    try:
        return parse_json(data.decode("utf-8"))
    except UnicodeDecodeError:
        return ParseError(f"{label} is not UTF-8; save it as UTF-8")
    except json.JSONDecodeError as error:
        return ParseError(f"{label} is not JSON: {error.msg} at column {error.colno}; mend it")
    except ParseError as error:
        return ParseError(f"{label}: {error}")
    except (ValueError, RecursionError) as error:
        return ParseError(f"{label}: {_beyond(error)}")


def _beyond(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply to be a row; mend it"
    return "it holds a number of thousands of digits; mend it"  # more than Python converts


class _JsonReader:
    """Reads `{"annotation": [...]}` piece by piece, and keeps one piece in memory."""

    def __init__(self, file: BinaryIO, label: str) -> None:
        self.file, self.label = file, label
        self.text, self.at, self.ended = "", 0, False
        self.start = 0  # of the value read last
        self.line, self.column = 1, 1  # of the first character of `text`
        self.bytes, self.lines = 0, 0  # decoded so far
        self.broken = False  # whether the value read last has a key twice, or a number that JSON does not have
        beginning = file.read(4)
        encoding = json.detect_encoding(beginning)
        self.decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
        self.json = json.JSONDecoder(object_pairs_hook=self._object, parse_constant=self._constant)
        self._decode(beginning)

    def rows(self) -> Iterator[Any]:
        """The rows; a ParseError in the place of one with a key twice, or with a number that JSON does not have."""
        first = self._next()
        if first == "[":
            raise DataError(f"{self.label}: is a list. Put it under the key `annotation`: {SHAPE}.")
        if first != "{":
            self._value()
            raise self._no_annotation()
        self.at += 1
        keys: list[str] = []
        for key in self._keys():
            if key in keys:
                line = self._location(self.at)[0]
                raise DataError(f"{self.label}: the key {key!r} is there again on line {line}; keep one of them")
            keys.append(key)
            if key != "annotation":
                self._plain_value()
            elif self._next() != "[":
                kind = json_kind(self._plain_value())
                raise DataError(f"{self.label}: `annotation` is {kind}, not a list. The file must look like {SHAPE}.")
            else:
                yield from self._items()
        follows = self._next()
        if "annotation" not in keys and (follows == "{" or "path" in keys):
            kind = "holds one JSON object a line (JSON lines)" if follows == "{" else "is a single row"
            raise DataError(f"{self.label}: {kind}. {WRAP_LINES}")
        if follows:
            raise self._not_json("Extra data", self.at)
        if "annotation" not in keys:
            raise self._no_annotation()

    def _keys(self) -> Iterator[str]:
        """The keys of an object whose brace is behind us; between two of them the caller reads the value."""
        if self._next() == "}":
            self.at += 1
            return
        while True:
            if self._next() != '"':
                raise self._not_json("Expecting property name enclosed in double quotes", self.at)
            key = self._value()
            self._expect(":")
            yield key
            if self._next() == "}":
                self.at += 1
                return
            self._expect(",")

    def _items(self) -> Iterator[Any]:
        """The items of the list that begins here."""
        self.at += 1
        if self._next() == "]":
            raise DataError(f"{self.label}: `annotation` is empty. Add at least one row.")
        for number in count():
            yield self._checked_value(number)
            comma = COMMA(self.text, self.at)
            if comma is not None and comma.end() < len(self.text):
                self.at = comma.end()  # nearly always
            elif self._next() == "]":
                self.at += 1
                return
            else:
                self._expect(",", number)
                self._next()

    def _plain_value(self) -> Any:
        self._next()
        value = self._checked_value()
        if isinstance(value, ParseError):
            raise DataError(f"{self.label}: {value}")
        return value

    def _checked_value(self, row: int | None = None) -> Any:
        value = self._value(row)
        if not self.broken:
            return value
        lines = self._location(self.start)[0] - 1
        try:  # once more, for the names of keys and the numbers of lines
            return parse_json("\n" * lines + self.text[self.start : self.at])
        except ParseError as error:
            return error

    def _value(self, row: int | None = None) -> Any:
        """The value that begins here, which is read as far as it goes."""
        size = CHUNK_BYTES
        while True:
            self.broken = False
            try:
                value, end = self.json.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if self.ended or len(self.text) - self.at > LONGEST_ROW:
                    raise self._not_json(error.msg, error.pos, row) from error
            except (ValueError, RecursionError) as error:
                label = f"row {row}, counted from 0" if row is not None else f"line {self._location(self.at)[0]}"
                raise DataError(f"{self.label}: {label}: {_beyond(error)}.") from error
            else:
                cut = isinstance(value, int | float) and len(self.text) - end < LONGEST_NUMBER
                if self.ended or not cut:
                    self.start, self.at = self.at, end
                    return value
            self._more(size)
            size *= 2  # or a long value would be tried too often

    def _next(self) -> str:
        """The character that comes next, blanks aside; nothing at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in BLANK:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self._more(CHUNK_BYTES)

    def _expect(self, character: str, row: int | None = None) -> None:
        if self._next() != character:
            raise self._not_json(f"Expecting '{character}' delimiter", self.at, row)
        self.at += 1

    def _more(self, size: int) -> None:
        """Read on; what is behind us is dropped."""
        behind = self.text[: self.at]
        self.line, self.column = self._location(self.at)
        self.text = self.text[len(behind) :]
        self.at = 0
        data = self.file.read(size)
        self.ended = not data
        self._decode(data)

    def _decode(self, data: bytes) -> None:
        try:
            text = self.decoder.decode(data, final=self.ended)
        except UnicodeDecodeError as error:
            kept = len(error.object) - len(data)  # of a character that the bytes before had begun
            line = 1 + self.lines + error.object.count(b"\n", 0, error.start)
            number = self.bytes - kept + error.start
            raise DataError(
                f"{self.label}: line {line} is not UTF-8 (byte {number}). Save the file as UTF-8."
            ) from error
        self.bytes, self.lines = self.bytes + len(data), self.lines + text.count("\n")
        self.text += text

    def _location(self, at: int) -> tuple[int, int]:
        """Line and column of a place in `text`, counted from 1."""
        lines = self.text.count("\n", 0, at)
        last = self.text.rfind("\n", 0, at)
        return self.line + lines, at - last if lines else self.column + at

    def _not_json(self, message: str, at: int, row: int | None = None) -> DataError:
        line, column = self._location(at)
        number = "" if row is None else f" (row {row}, counted from 0)"
        return DataError(f"{self.label}: not JSON: {message} at line {line}, column {column}{number}. {AGAIN}")

    def _no_annotation(self) -> DataError:
        return DataError(f"{self.label}: lacks the key `annotation`. The file must look like {SHAPE}.")

    def _object(self, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        self.broken |= len(mapping) < len(pairs)
        return mapping

    def _constant(self, name: str) -> float:
        self.broken = True
        return float(name.replace("Infinity", "inf"))
