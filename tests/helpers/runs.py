"""What a run of `nota infer` has left on the disk."""

import csv
import json
from pathlib import Path


def finished_rows(journal: Path) -> int:
    """Whole lines of a journal behind its header."""
    try:
        return max(0, journal.read_bytes().count(b"\n") - 1)
    except FileNotFoundError:
        return 0


def report(out: Path) -> dict:
    return json.loads(out.with_suffix(".run.json").read_text())


def texts(out: Path) -> dict[str, str]:
    with out.open(newline="") as file:
        return {row["testset_id"]: row["text"] for row in csv.DictReader(file)}
