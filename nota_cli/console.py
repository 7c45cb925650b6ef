"""What a person sees: progress, tables and messages, all on stderr, so that stdout carries results alone."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

err = Console(stderr=True, highlight=False, soft_wrap=True)
out = Console(highlight=False)


def say(message: str) -> None:
    """One line of information."""
    err.print(message, markup=False)


def warn(message: str) -> None:
    """Something the user should know, and the command goes on."""
    err.print(f"[yellow]warning:[/] {_plain(message)}")


def fail(message: str) -> None:
    """Why the command ends."""
    err.print(f"[red]error:[/] {_plain(message)}")


def print_json(value: Any) -> None:
    """One JSON object on stdout and nothing else."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table of results on stdout; numbers are set to the right."""
    drawn = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(_plain(cell) for cell in row))
    out.print(drawn)


def progress() -> Progress:
    """A progress bar on stderr; without a terminal only its last state is printed."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
        console=err,
    )


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
