"""What a run of `nota infer` has left on the disk."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

from nota_cli.inference.journal import Entry, Journal


def finished_rows(journal: Path) -> int:
    """Whole lines of a journal behind its header."""
    try:
        return max(0, journal.read_bytes().count(b"\n") - 1)
    except FileNotFoundError:
        return 0


def signal_itself(after: int, number: int) -> Callable[[], None]:
    """To be called in a process of its own: its run sends itself a signal once so many rows are in its journal.

    Who looks from outside, and is kept waiting for a processor, may look when all rows are finished.
    """

    def prepare() -> None:
        append, sent = Journal.append, []

        def counted(journal: Journal, entries: list[Entry]) -> None:
            append(journal, entries)
            if not sent and journal._rows >= after:  # the file must not be read here: closing it ends the lock
                sent.append(number)
                os.kill(os.getpid(), number)

        Journal.append = counted

    return prepare


def report(out: Path) -> dict:
    return json.loads(out.with_suffix(".run.json").read_text())


def texts(out: Path) -> dict[str, str]:
    with out.open(newline="") as file:
        return {row["testset_id"]: row["text"] for row in csv.DictReader(file)}
