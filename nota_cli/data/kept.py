"""What is kept of large data for later runs: the folder that it lies in, and one process that writes at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nota_cli.errors import NotaError
from nota_cli.files import lock, sweep


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
        locked = file.with_name(f"{file.name}.lock").open("ab")
    except OSError as error:
        raise NotaError(
            f"cannot write {file.parent}, where what is read of large data is kept: {error.strerror}. Name another "
            "folder by the environment variable NOTA_CACHE."
        ) from error
    with locked:
        if lock(locked, wait=True):  # without locks the same work may be done twice, and each writes a whole file
            sweep(file)
        yield
