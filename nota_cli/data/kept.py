"""What is kept of large data for later runs: the folder that it lies in, and one process that writes at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nota_cli.errors import NotaError
from nota_cli.files import REFUSED, sweep


def kept_folder() -> Path:
    """`$NOTA_CACHE/rows`, else the same in the folder for caches (XDG) of this user."""
    own = os.environ.get("NOTA_CACHE")
    if own:
        return Path(own).expanduser() / "rows"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nota" / "rows"


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Hold back other processes that want to write the same file of the folder, and clear away what killed ones left.

    Raises:
        NotaError: the folder cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.with_name(f"{file.name}.lock").open("ab")
    except OSError as error:
        raise NotaError(
            f"cannot write {file.parent}, where what is read of large data is kept: {error.strerror}. Name another "
            "folder by the environment variable NOTA_CACHE."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # without locks the same work may be done twice, and each writes a whole file
            if error.errno not in REFUSED:
                raise
        else:
            sweep(file)
        yield
