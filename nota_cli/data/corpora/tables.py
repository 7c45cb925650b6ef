"""A table of one's own as an annotation: CSV, TSV, JSON lines or Parquet, its columns named on the command line."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nota_cli.data.corpora.clips import Embedded
from nota_cli.data.corpora.prepare import Item, Reader, read_table
from nota_cli.errors import DataError, UsageError

COLUMNS = ("path", "text", "task", "Q", "speaker", "label", "testset_id")
LINES = (".jsonl", ".ndjson")
ROWS_AT_ONCE = 64  # of a Parquet file; each may hold a recording


def table_reader(table: Path, columns: Mapping[str, str], task: str | None) -> Reader:
    """A reader of the rows of a table; paths are relative to the folder that `prepare` is given.

    A Parquet file whose `path` or `audio` column holds the recordings themselves, as the Hugging Face hub's datasets
    do, has them written to files beside the annotation.

    Args:
        table: the file; its suffix says what it is.
        columns: what of a row comes from which column; those of the same name need not be named.
        task: of rows whose table has none.

    Raises:
        UsageError: a key that no row has, or a kind of file that is not read.
    """
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise UsageError(f"--column {unknown[0]}=...: rows have {', '.join(COLUMNS)}")

    def read(folder: Path, split: str) -> Iterator[Item]:
        for number, row in enumerate(_read(table)):
            if not number and table.suffix.lower() not in LINES:  # in these each row has its own keys
                _check_columns(table, row, columns)
            values = {name: row.get(columns.get(name, name)) for name in COLUMNS}
            recording = _embedded(values["path"] or row.get("audio"), number)
            if recording is not None:
                values["path"] = recording[0]
            item: Item = {name: str(value) for name, value in values.items() if value not in (None, "")}
            if "path" not in item:
                raise DataError(f"{table}: row {number} names no recording under {columns.get('path', 'path')!r}")
            if recording is not None:
                item["clip"] = recording[1]
            item.setdefault("task", task or "asr")
            item.setdefault("text", "")
            yield item

    return Reader("table", f"the table {table.name}", str(table), "that of the recordings", ("all",), read)


def _check_columns(table: Path, row: dict[str, Any], columns: Mapping[str, str]) -> None:
    """Raise a DataError that names the columns there are, if one that is to be read is not among them."""
    wanted = [*columns.values(), *(["path"] if "path" not in columns and "audio" not in row else [])]
    if lacking := [column for column in wanted if column not in row]:
        there = ", ".join(str(column) for column in row if column is not None)
        raise DataError(
            f"{table}: there is no column {lacking[0]!r}; there are: {there}. Say which is which by --column "
            "path=COLUMN, --column text=COLUMN and so on."
        )


def _separator(table: Path) -> str:
    """What stands between the columns of a CSV: spreadsheets write semicolons where a comma is the decimal point."""
    with table.open(encoding="utf-8-sig") as file:
        return max(",;", key=file.readline().count)


def _read(table: Path) -> Iterator[dict[str, Any]]:
    """Rows of a table; a DataError says why there are none."""
    number = -1
    try:
        for number, row in enumerate(_rows(table)):  # noqa: B007 - how many there were is asked behind the loop
            yield row
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: is not UTF-8 ({error.reason}). Save it as CSV in UTF-8.") from error
    except ValueError as error:
        raise DataError(f"{table}: row {number + 1} cannot be read: {error}") from error
    if number < 0:
        raise DataError(f"{table}: holds no rows. Its first line names the columns, and each further one is a row.")


def _rows(table: Path) -> Iterator[dict[str, Any]]:
    kind = table.suffix.lower()
    if kind in (".csv", ".tsv"):
        yield from read_table(table, _separator(table) if kind == ".csv" else "\t")
    elif kind in LINES:
        with table.open(encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines if line.strip())
    elif kind == ".parquet":
        yield from _parquet_rows(table)
    else:
        raise UsageError(f"{table}: tables are .csv, .tsv, .jsonl or .parquet")


def _parquet_rows(table: Path) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file, a few at a time: tables of the Hugging Face hub hold the recordings themselves."""
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise UsageError(f"{table}: Parquet files are read by pyarrow; run: pip install pyarrow") from error
    for batch in pyarrow.parquet.ParquetFile(table).iter_batches(batch_size=ROWS_AT_ONCE):
        yield from batch.to_pylist()


def _embedded(value: Any, number: int) -> tuple[str, Embedded] | None:
    """Name and bytes of a recording as `datasets` stores it, `{"bytes", "path"}`; None of anything else."""
    if not isinstance(value, Mapping) or not isinstance(value.get("bytes"), bytes):
        return None
    name = Path(str(value.get("path") or "")).name
    return f"{number:06d}-{name}" if name else f"{number:06d}", Embedded(value["bytes"])
