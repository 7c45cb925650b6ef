"""The rows of an annotation as they are written, all their keys kept."""

from pathlib import Path
from typing import Any

from nota_cli.data.annotation import annotation_bytes, parse_annotation
from nota_cli.parsing import decode, parse_json

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
    data = annotation_bytes(path)
    parse_annotation(data, path, default_task=default_task)
    content: Any = parse_json(decode(data))
    items: list[Item] = content["annotation"]
    return items
