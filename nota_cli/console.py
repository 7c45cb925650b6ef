"""What a person sees: progress, tables and messages, all on stderr, so that stdout carries results alone."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from nota_cli.errors import AudioWarning

MOST_AUDIO_WARNINGS = 20  # of a process; a corpus may have thousands
PIPE_WIDTH = 200  # most columns of a table that goes whole into a pipe or a file
NARROWEST = 20  # columns; in fewer a table shows nothing

if os.environ.get("COLUMNS", "").isdigit() and int(os.environ["COLUMNS"]) < NARROWEST:
    del os.environ["COLUMNS"]  # before rich reads it; the terminal's own width counts then, or 80

LOGGER = logging.getLogger("nota_cli")
LOGGER.addHandler(logging.NullHandler())
"""Every message goes here, too. Who adds a handler to this logger takes the messages over: stderr stays silent then."""
err = Console(stderr=True, highlight=False, soft_wrap=True)
out = Console(highlight=False)


_level = logging.INFO


def set_verbosity(level: int) -> None:
    """Which messages reach stderr: `logging.WARNING` and no progress, `logging.INFO` (the default) or `logging.DEBUG`.

    With DEBUG, what libraries warn of is shown as well.
    """
    global _level
    _level = level
    if level <= logging.DEBUG:
        logging.disable(logging.NOTSET)


def _message(level: int, text: str, markup: str) -> None:
    """One message to stderr, or to whoever listens to the logger."""
    if level >= _level and all(isinstance(handler, logging.NullHandler) for handler in LOGGER.handlers):
        err.print(f"{markup}{escape(text)}")
    LOGGER.log(level, text)


def quiet_libraries() -> None:
    """Keep what libraries log about parts that nota does not use off the screen; their errors still come as such."""
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # Read when transformers and huggingface_hub are imported: bars of their own would tear ours apart.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked data workers would make tokenizers warn


def show_audio_warnings() -> None:
    """Have warnings of recordings look like the command line's own, each once."""
    warnings.filterwarnings("once", category=AudioWarning)
    warnings.showwarning = _show_warning


_show_python_warning = warnings.showwarning
_audio_warnings = count(1)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Warnings of recordings as the command line writes its own, not without end; others as Python does."""
    if issubclass(category, AudioWarning):
        number = next(_audio_warnings)
        if number <= MOST_AUDIO_WARNINGS:
            warn(str(message))
        if number == MOST_AUDIO_WARNINGS:
            warn("further warnings of recordings are not shown")
    else:
        _show_python_warning(message, category, filename, lineno, file, line)


@contextmanager
def quiet_process() -> Iterator[None]:
    """For a program of our own: inside, no library's warning or log line below an error reaches the screen.

    nota's messages take other ways (`say`, `warn`, `fail`), warnings of a category of its own are passed on, and errors
    still come as exceptions. With `python -W` or `PYTHONWARNINGS` everything is shown.
    """
    quiet_libraries()
    if sys.warnoptions:
        yield
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported
    before = logging.root.manager.disable
    show = warnings.showwarning

    def show_own(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if category.__module__.split(".")[0] == "nota_cli":
            show(message, category, *where, **more)

    warnings.showwarning = show_own  # not by filters, which libraries reset when they are imported
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)
        warnings.showwarning = show


@contextmanager
def waiting(message: str) -> Iterator[None]:
    """A spinner on a terminal's stderr while the block takes its time."""
    if not err.is_terminal or _level > logging.INFO:
        yield
        return
    with err.status(escape(message), spinner="line"):
        yield


def say(message: str) -> None:
    """One line of information."""
    _message(logging.INFO, message, "")


def debug(message: str) -> None:
    """What only someone who looks for a fault wants to know; shown with `--verbose`."""
    _message(logging.DEBUG, message, "[dim]debug:[/] ")


def warn(message: str) -> None:
    """Something the user should know, and the command goes on."""
    _message(logging.WARNING, message, "[yellow]warning:[/] ")


def fail(message: str) -> None:
    """Why the command ends."""
    _message(logging.ERROR, message, "[red]error:[/] ")


def print_json(value: Any) -> None:
    """One JSON object on stdout and nothing else; what stdout's encoding lacks is written as JSON's own escapes."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    sys.stdout.write((text if fits_stdout(text) else json.dumps(value, indent=2)) + "\n")


def fits_stdout(text: str) -> bool:
    """Whether stdout's encoding has all characters of the text."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def table(title: str, columns: list[str], rows: list[list[str]], *, whole: bool = False) -> None:
    """A table of results on stdout; numbers are set to the right.

    Names, in the first column, stay whole where they take half of the width at most.

    Args:
        title: stands above it.
        columns: their heads.
        rows: a text for each column.
        whole: in a pipe or a file keep all cells whole, so that they can be searched for, whatever the width.
    """
    drawn = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        names = index == 0 and max((len(row[0]) for row in rows), default=0) <= out.width // 2
        drawn.add_column(column, justify="left" if index == 0 else "right", overflow="fold", no_wrap=names)
    for row in rows:
        drawn.add_row(*(escape(cell) for cell in row))
    width = out.width
    if whole and not out.is_terminal:
        out.width = max(width, out.measure(drawn, options=out.options.update(width=PIPE_WIDTH)).maximum)
    out.print(drawn)
    out.width = width


def progress(visible: bool = True) -> Progress:
    """A progress bar on stderr; without a terminal only its last state is printed, and nothing if not `shown`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
        console=err,
        disable=not visible or _level > logging.INFO,
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),  # or results would go to stderr with the bar
    )
