"""The rows of an annotation as they are written, all their keys kept."""

from pathlib import Path
from typing import Any

from nota_cli.data.annotation import Row, annotation_bytes, parse_items, rows_of
from nota_cli.errors import printable

Item = dict[str, Any]


def annotation_items(path: Path | str, *, default_task: str | None = None) -> list[Item]:
    """The rows' own values; they are checked as by `nota_cli.data.annotation.read_annotation`.

    Args:
        path: the JSON file, UTF-8.
        default_task: what rows without a task are checked as; nothing is added to them.

    Raises:
        UsageError: the file is not there or cannot be opened.
        DataError: the file or rows of it cannot be used.
    """
    return items_and_rows(path, default_task=default_task)[0]


def items_and_rows(path: Path | str, *, default_task: str | None = None) -> tuple[list[Item], list[Row]]:
    """What `annotation_items` and `read_annotation` give, from one reading of the file."""
    items = parse_items(annotation_bytes(path), printable(str(path)))
    return items, rows_of(items, path, default_task=default_task)
