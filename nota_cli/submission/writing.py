"""Submissions on disk: written whole or not at all, and found again."""

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from nota_cli.errors import UsageError
from nota_cli.files import atomic_path
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
    """`submission.csv` in a folder, else the newest CSV in its `submissions/`.

    Raises:
        UsageError: there is neither.
    """
    here = Path(folder) / "submission.csv"
    if here.is_file():
        return here
    found = [path for path in (Path(folder) / "submissions").glob("*.csv") if path.is_file()]
    if not found:
        raise UsageError("no submission.csv here and no CSV in submissions/. Give the path of a submission.")
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name))
