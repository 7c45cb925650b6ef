"""Writing files and folders whole or not at all."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nota_cli.errors import NotaError, UsageError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no room on the disk, in a quota, under a process's limit


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target`; when the block ends well, sync it and rename it over `target`.

    Where `target` is a symbolic link, what it leads to is written.

    Raises:
        UsageError: the folder cannot be made or written to, or `target` is there and no plain file.
        NotaError: the disk is full, or the folder has changed since.
    """
    target = _plain(target)
    handle, name = _beside(target, tempfile.mkstemp)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        _settle(part)
        part.replace(target)
    except OSError as error:
        if error.errno in FULL:
            raise NotaError(f"cannot write {target}: {error.strerror}. Make room there, and try again.") from error
        if error.filename == str(part):
            raise NotaError(f"cannot write {target}: {error.strerror}. Choose another output path.") from error
        raise  # of some other file
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target`; when the block ends well it takes the place of `target`, else it vanishes.

    Raises:
        UsageError: the folder around it cannot be made or written to.
    """
    target = Path(target)
    part = Path(_beside(target, tempfile.mkdtemp))
    try:
        yield part
        for path in (*part.rglob("*"), part):
            _settle(path)
        if target.exists():
            old = part.with_suffix(".old")
            target.replace(old)
            part.replace(target)
            shutil.rmtree(old)
        else:
            part.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_writable(target: Path) -> None:
    """Find out before the work whether `target` can be written after it.

    Raises:
        UsageError: it cannot.
    """
    target = _plain(target)
    handle, name = _beside(target, tempfile.mkstemp)
    os.close(handle)
    Path(name).unlink()


def write_text(target: Path, text: str) -> None:
    """Write `text` to `target` whole or not at all, as UTF-8 with Unix line ends."""
    with atomic_path(target) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def sweep(target: Path) -> None:
    """Remove what killed processes have left of `atomic_path`; for the one process that may write `target`."""
    for path in leavings(target):
        path.unlink(missing_ok=True)


def leavings(target: Path) -> list[Path]:
    """What killed processes have left of `atomic_path`, beside `target`."""
    target = Path(target)
    ours = re.compile(re.escape(f".{target.name}.") + r"[a-z0-9_]{8}\.part")
    try:
        return [path for path in target.parent.iterdir() if ours.fullmatch(path.name)]
    except OSError:  # no folder, or none that can be listed
        return []


def _plain(target: Path) -> Path:
    """The file that `target` leads to; a folder, or a device, must not be replaced by one."""
    file = Path(os.path.realpath(target))
    if file.exists() and not file.is_file():
        kind = "a folder" if file.is_dir() else "no plain file"
        raise UsageError(f"cannot write {target}: it is {kind}. Choose another output path.")
    return file


def _beside(target: Path, make: Callable[..., Any]) -> Any:
    """What `tempfile`'s function `make` makes beside `target`."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return make(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}. Choose another output path.") from error


def _settle(path: Path) -> None:
    """Make a result as readable as any other file (tempfile and safetensors make theirs private), and sync it."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
    if path.is_file():
        with path.open("rb+") as written:
            os.fsync(written.fileno())
