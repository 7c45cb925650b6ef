"""nota's own commands in processes of their own: memory is one artifact's alone, and no failure ends the rest."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from nota_cli.errors import UsageError

# Linux ends the command with the ladder, however that ended: else a killed ladder could not go on at once.
_START = (
    "import ctypes, signal, sys; sys.argv[0] = 'nota'; libc = ctypes.CDLL(None); "
    "libc.prctl(1, signal.SIGTERM) if hasattr(libc, 'prctl') else None; "
    "from nota_cli.cli import main; main()"
)
_ERROR = "error: "  # how `nota_cli.console.fail` begins

Runner = Callable[[Sequence[str], Path], str | None]
"""Runs one command of nota, writes what it says to a log, and returns why it failed, or None."""


def run_command(arguments: Sequence[str], log: Path) -> str | None:
    """Run `nota ARGUMENTS` in a process of its own and wait for it.

    Args:
        arguments: without `nota`.
        log: the command and all that it writes are added to it.

    Returns:
        Why it failed, on one line, or None.

    Raises:
        UsageError: the log cannot be written.
    """
    command = f"$ nota {shlex.join(arguments)}\n".encode("utf-8", "surrogateescape")
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            file.write(command)
            file.flush()
            start = file.tell()
            done = subprocess.run(
                [sys.executable, "-c", _START, *arguments], stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        if done.returncode == 0:
            return None
        with log.open("rb") as file:
            file.seek(start)
            written = file.read().decode("utf-8", "replace")
    except OSError as error:
        raise UsageError(f"cannot write {log}: {error.strerror}. Choose another output path.") from error
    return reason_of(done.returncode, written, log)


def reason_of(status: int, written: str, log: Path) -> str:
    """Why a command failed, on one line.

    Args:
        status: its exit status; below zero, the signal that ended it.
        written: all that it wrote.
        log: where that is, for a reader who wants it all.
    """
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        hint = "; the system does so when memory runs out" if name == "SIGKILL" else ""
        return f"ended by {name}{hint} (see {log})"
    _, mark, message = written.rpartition(_ERROR)
    lines = [line.strip() for line in (message if mark else written).splitlines() if line.strip()]
    if not lines:
        return f"exit status {status}, and it says nothing (see {log})"
    return " ".join(lines) if mark else f"{lines[-1]} (see {log})"
