"""Annotation rows as Arrow columns, in memory or mapped from a file, each row made when it is asked for."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nota_cli.data.annotation import Row, wordings

NAME, NAMES = pa.binary(), pa.list_(pa.binary())  # names of files need not be UTF-8
SCHEMA = pa.schema(
    [
        ("path", NAME),
        ("task", pa.string()),
        ("text", pa.string()),
        ("Q", pa.string()),
        ("testset_id", pa.string()),
        ("expand_wav", NAMES),
        ("label", pa.string()),
        ("speaker", pa.string()),
        ("texts", pa.list_(pa.string())),
        ("choices", pa.list_(pa.string())),
    ]
)
"""The columns, named as a row's keys; `text` and `texts` are apart where a row has them in one list."""
PLAIN = [name for name in SCHEMA.names if name not in ("text", "texts")]
ROWS_AT_ONCE = 8192


class RowTable(Sequence[Row]):
    """Rows by number; nothing is kept in memory for those that nobody asks for.

    Args:
        table: the columns of `SCHEMA`, every row checked.
        key: what changes with the rows, where they are mapped from a file.
    """

    def __init__(self, table: pa.Table, key: str | None = None) -> None:
        self.key = key
        self._table = table
        self._batches = [batch.columns for batch in table.to_batches()]
        self._starts = np.cumsum([0, *(len(columns[0]) for columns in self._batches)]).tolist()

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "RowTable":
        """A table in memory of rows that are checked already, each at its own place."""
        items = (
            {
                "path": row.path,
                "task": row.task,
                "text": row.text,
                "Q": row.question,
                "testset_id": row.id,
                "expand_wav": list(row.expand),
                "label": row.label,
                "speaker": row.speaker,
                "texts": list(row.texts),
                "choices": list(row.choices) or None,
            }
            for row in rows
        )
        return cls(pa.Table.from_batches(batches_of(items), SCHEMA))

    @classmethod
    def mapped(cls, file: Path, key: str) -> "RowTable":
        """The table that `write_batches` wrote into a file.

        Raises:
            OSError: the file cannot be read.
            pyarrow.ArrowInvalid: it is damaged.
        """
        with pa.memory_map(str(file)) as opened:
            table = pa.ipc.open_file(opened).read_all()
        if table.schema != SCHEMA:
            raise pa.ArrowInvalid(f"{file} has other columns")
        return cls(table, key)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(index)
        batch = bisect_right(self._starts, number) - 1
        values = [column[number - self._starts[batch]].as_py() for column in self._batches[batch]]
        path, task, text, question, name, expand, label, speaker, texts, choices = values
        return Row(
            number,
            _text(path),
            task,
            text,
            question,
            name,
            _texts(expand),
            label,
            speaker,
            tuple(texts or ()),
            choices=tuple(choices or ()),
        )

    def names(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[str, ...]]:
        """Of each row, or of those from `start` up to `stop`, its file and those that are appended to it."""
        columns = self._table.select(["path", "expand_wav"]).slice(start, None if stop is None else stop - start)
        for batch in columns.to_batches(max_chunksize=ROWS_AT_ONCE):
            for path, expand in zip(batch[0].to_pylist(), batch[1].to_pylist(), strict=True):
                yield _text(path), *_texts(expand)

    def lacking(self, column: str) -> "np.ndarray[Any, np.dtype[np.int64]]":
        """Numbers of the rows that have nothing in a column."""
        return np.flatnonzero(pc.is_null(self._table[column]).to_numpy())

    def values(self, column: str) -> list[str]:
        """Every value of a column of texts, once, sorted."""
        unique: list[str | None] = pc.unique(self._table[column]).to_pylist()
        return sorted(value for value in unique if value is not None)

    def groups(self, column: str) -> "Groups":
        """The rows by what they have in a column of texts, which none of them lacks."""
        coded = pc.dictionary_encode(self._table[column].combine_chunks())
        if isinstance(coded, pa.ChunkedArray):
            coded = coded.combine_chunks()
        return Groups(coded.dictionary.to_pylist(), coded.indices.to_numpy(zero_copy_only=False))


class Groups:
    """Numbers of rows by a text that they share, in two arrays: by name an array of numbers, ascending."""

    def __init__(self, names: list[str], codes: "np.ndarray[Any, Any]") -> None:
        self._codes = {name: code for code, name in enumerate(names)}
        self._rows = np.argsort(codes, kind="stable").astype(np.int32 if len(codes) < 2**31 else np.int64)
        self._starts = np.searchsorted(codes[self._rows], np.arange(len(names) + 1))

    def __getitem__(self, name: str) -> "np.ndarray[Any, Any]":
        code = self._codes[name]
        return self._rows[self._starts[code] : self._starts[code + 1]]


def batches_of(items: Iterable[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
    """Batches of `SCHEMA` of good rows as an annotation has them."""
    items = iter(items)
    while chunk := list(islice(items, ROWS_AT_ONCE)):
        texts = [wordings(item) for item in chunk]
        columns = {name: [item.get(name) for item in chunk] for name in PLAIN}
        columns["text"], columns["texts"] = [text for text, _ in texts], [others or None for _, others in texts]
        arrays = [_array(columns[field.name], field.type) for field in SCHEMA]
        yield pa.record_batch(arrays, schema=SCHEMA)


def write_batches(batches: Iterable[pa.RecordBatch], file: Path) -> None:
    """Write them as they come."""
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:  # names of files in another encoding, as Python holds them
        if kind == NAME:
            return pa.array([_bytes(value) for value in values], kind)
        return pa.array([value and [_bytes(each) for each in value] for value in values], kind)


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _texts(names: list[bytes] | None) -> tuple[str, ...]:
    return tuple(map(_text, names or ()))
