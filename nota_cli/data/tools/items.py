"""The rows of an annotation as they are written, all their keys kept."""

from pathlib import Path
from typing import Any

from nota_cli.data.annotation import annotation_bytes, parse_annotation
from nota_cli.parsing import decode, parse_json

Item = dict[str, Any]


def annotation_items(path: Path | str) -> list[Item]:
    """The rows' own values; they are checked as by `nota_cli.data.annotation.read_annotation`.

    Raises:
        UsageError: the file is not there or cannot be opened.
        DataError: the file or rows of it cannot be used.
    """
    data = annotation_bytes(path)
    parse_annotation(data, path)
    content: Any = parse_json(decode(data))
    items: list[Item] = content["annotation"]
    return items
