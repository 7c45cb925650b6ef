"""What surrounds the app: streams, Ctrl-C, arguments left empty, and errors turned into exit statuses."""

import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from nota_cli.console import fail
from nota_cli.errors import NotaError, UsageError, printable
from nota_cli.files import FULL
from nota_cli.imports import missing_torch

EMPTY_OPTION = re.compile(r"(--[a-z][a-z-]*)=")
INTERRUPTED = 130
SHOW_CURSOR = b"\x1b[?25h\n"  # a progress bar hides it
LENIENT = {"replace", "ignore", "backslashreplace", "xmlcharrefreplace", "namereplace"}
NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "can't start new thread")


def run(app: Callable[[], object]) -> None:
    """Run the app; an error that the user can mend becomes one message and its exit status."""
    open_streams()
    with second_interrupt_ends():
        try:
            try:
                refuse_empty(sys.argv[1:])
                _check_working_folder()
                app()
            finally:
                sys.stdout.flush()
        except NotaError as error:
            fail(str(error))
            raise SystemExit(error.exit_code) from None
        except ModuleNotFoundError as error:
            message = missing_torch(error)
            if message is None:
                raise
            fail(message)
            raise SystemExit(UsageError.exit_code) from None
        except BrokenPipeError:  # whoever read has had enough: `| head`
            _drop_stdout()
            raise SystemExit(1) from None
        except OSError as error:
            if error.errno in FULL:
                _drop_stdout()
                fail(f"cannot write: {error.strerror}. Make room, or send stdout elsewhere.")
            elif error.strerror is not None:
                name = "" if error.filename is None else f" {printable(os.fsdecode(error.filename))}"
                fail(f"the system refuses{name}: {error.strerror}")
            else:
                raise
            raise SystemExit(1) from None
        except (MemoryError, RuntimeError) as error:  # torch's allocators have errors without a class
            if not isinstance(error, MemoryError) and not any(words in str(error).lower() for words in NO_MEMORY):
                raise
            reason = (str(error).splitlines() or ["the system gave no more"])[0]
            fail(f"out of memory: {reason}. Take a smaller recipe or smaller batches, or free memory.")
            raise SystemExit(1) from None


def refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse arguments without content, which are variables that were not set: nothing that nota takes may be empty.

    Raises:
        UsageError: naming the option.
    """
    for index, argument in enumerate(arguments):
        match = EMPTY_OPTION.fullmatch(argument)
        before = arguments[index - 1] if index else ""
        if match or not argument:
            name = match[1] if match else before if before.startswith("-") else "an argument"
            raise UsageError(f"{name} is empty; was a variable not set? Give it a value, or leave it out.")


def open_streams() -> None:
    """Make the three standard streams such that no output can fail for their sake.

    Those that are closed lead nowhere (else the next file that is opened would get their number, and what libraries
    print would be written into it); what a stream's encoding lacks is written as escapes.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None or getattr(stream, "closed", False):
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for the process's life
        elif mode == "w" and isinstance(stream, io.TextIOWrapper) and stream.errors not in LENIENT:
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def second_interrupt_ends() -> Iterator[None]:
    """Inside, a first Ctrl-C is an exception as ever, and a second one ends the process at once, without a traceback.

    What is finished is on the disk by then. Where interrupts are ignored, as under nohup, they stay so.
    """
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is not signal.default_int_handler:
        yield
        return
    pid, pressed = os.getpid(), False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed and os.getpid() == pid:
            with suppress(OSError):
                os.write(2, SHOW_CURSOR if os.isatty(2) else b"\n")
            os._exit(INTERRUPTED)
        pressed = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if not pressed:  # else while Python shuts down, too
            signal.signal(signal.SIGINT, usual)


def _check_working_folder() -> None:
    try:
        os.getcwd()
    except OSError:
        raise UsageError("the working folder is not there any more. Go to one that is, with cd.") from None


def _drop_stdout() -> None:
    """Or Python would try the rest of it again at the end, and fail aloud."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
