"""Submissions on disk: written whole or not at all, and found again."""

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from nota_cli.errors import UsageError
from nota_cli.files import atomic_path
from nota_cli.submission.problems import Log, printable
from nota_cli.submission.reading import parse
from nota_cli.submission.rows import COLUMNS


def write_submission(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write (testset_id, text) pairs as a CSV that appears whole or not at all; line breaks in a text become spaces.

    Raises:
        UsageError: the folder cannot be written to.
    """
    with atomic_path(Path(path)) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
        writer.writerow(COLUMNS)
        writer.writerows((name, re.sub(r"\r\n|\r|\n", " ", text)) for name, text in rows)


def find_submission(folder: Path) -> Path:
    """`submission.csv` in a folder, else the newest submission in its `submissions/`.

    Hidden files are passed over, and CSVs whose header lacks a submission's columns, such as `score --details` tables.

    Raises:
        UsageError: there is neither.
    """
    here = Path(folder) / "submission.csv"
    if here.is_file():
        return here
    visible = [path for path in (Path(folder) / "submissions").glob("*.csv") if not path.name.startswith(".")]
    candidates = [path for path in visible if path.is_file() and _has_columns(path)]
    if not candidates:
        others = ", ".join(printable(path.name) for path in sorted(visible))
        why = f"; no header of {', '.join(COLUMNS)}: {others}" if others else ""
        raise UsageError(f"no submission.csv here and no CSV in submissions/{why}. Give the path of a submission.")
    return max(candidates, key=lambda path: (path.stat().st_mtime_ns, path.name))


def _has_columns(path: Path) -> bool:
    first = next(parse(path, Log()), None)
    return first is not None and {name.strip().lower() for name in first.fields} >= set(COLUMNS)
