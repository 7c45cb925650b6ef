"""A table of one's own as an annotation: CSV, TSV, JSON lines or Parquet, its columns named on the command line."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nota_cli.data.corpora.reader import Item, Reader, read_table
from nota_cli.errors import UsageError

COLUMNS = ("path", "text", "task", "Q", "speaker", "label", "testset_id")


def table_reader(table: Path, columns: Mapping[str, str], task: str | None) -> Reader:
    """A reader of the rows of a table; paths are relative to the folder that `prepare` is given.

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
        for row in _rows(table):
            item = {name: row.get(columns.get(name, name)) for name in COLUMNS}
            item = {name: str(value) for name, value in item.items() if value not in (None, "")}
            if "path" not in item:
                raise KeyError(columns.get("path", "path"))
            item.setdefault("task", task or "asr")
            item.setdefault("text", "")
            yield item

    return Reader("table", f"the table {table.name}", str(table), "that of the recordings", ("all",), read)


def _rows(table: Path) -> Iterator[dict[str, Any]]:
    kind = table.suffix.lower()
    if kind in (".csv", ".tsv"):
        yield from read_table(table, "," if kind == ".csv" else "\t")
    elif kind in (".jsonl", ".ndjson"):
        with table.open(encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines if line.strip())
    elif kind == ".parquet":
        import pandas

        records: Any = pandas.read_parquet(table).to_dict("records")
        yield from records
    else:
        raise UsageError(f"{table}: tables are .csv, .tsv, .jsonl or .parquet")
