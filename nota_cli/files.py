"""Writing files and folders whole or not at all; telling a Git LFS pointer from the file that it stands for."""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from nota_cli.errors import NotaError, UsageError

LFS_POINTER = re.compile(rb"\s*version https?://(git-lfs|hawser)\.github\.com/spec/")
LFS_POINTER_BYTES = 1024  # a pointer is shorter than this (git-lfs, docs/spec.md)

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no room on the disk, in a quota, under a process's limit
PART = r"\.[a-z0-9_]{8}\.part"  # how the names of `atomic_path`'s temporary files end
REFUSED = {errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY}
"""What network and FUSE file systems answer to what they do not do: modes, syncing, locks."""


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
        with _explained(target, part):
            yield part
            _settle(part)
            part.replace(target)
    finally:
        _remove(part)


@contextmanager
def _explained(target: Path, part: Path) -> Iterator[None]:
    """Turn what the system says of `part`, which stands for `target`, into a message that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise NotaError(f"cannot write {target}: {error.strerror}. Make room there, and try again.") from error
        if error.filename is not None and Path(os.fsdecode(error.filename)).is_relative_to(part):
            raise NotaError(f"cannot write {target}: {error.strerror}. Choose another output path.") from error
        raise  # of some other file


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target`; when the block ends well it takes the place of `target`, else it vanishes.

    Raises:
        UsageError: the folder around it cannot be made or written to.
    """
    target = Path(target)
    part = Path(_beside(target, tempfile.mkdtemp))
    try:
        with _explained(target, part):
            yield part
            for path in (*part.rglob("*"), part):
                _settle(path)
            old = part.with_suffix(".old")
            if target.exists():
                target.replace(old)
            try:
                part.replace(target)
            except OSError:
                if old.exists():
                    old.replace(target)
                raise
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_writable(target: Path) -> None:
    """Find out before the work whether `target` can be written after it, by doing all that this takes beside it.

    Raises:
        UsageError: it cannot.
        NotaError: the disk is full.
    """
    target = _plain(target)
    handle, name = _beside(target, tempfile.mkstemp)
    os.close(handle)
    part = Path(name)
    renamed = part.with_name(f"{part.name.removesuffix('.part')[:-1]}_.part")  # a name that `sweep` knows as well
    try:
        part.write_bytes(b"\n")
        _settle(part)
        part.replace(renamed)
        renamed.unlink()
    except OSError as error:
        _remove(part)
        _remove(renamed)
        if error.errno in FULL:
            raise NotaError(f"cannot write {target}: {error.strerror}. Make room there, and try again.") from error
        raise UsageError(f"cannot write {target}: {error.strerror}. Choose another output path.") from error
    if _of_another_user(target):
        raise UsageError(f"cannot write {target}: it is another user's. Choose another output path.")


def write_text(target: Path, text: str) -> None:
    """Write `text` to `target` whole or not at all, as UTF-8 with Unix line ends."""
    with atomic_path(target) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def is_lfs_pointer(data: bytes) -> bool:
    """Whether the beginning of a file (the first 100 bytes suffice) is that of a Git LFS pointer."""
    return LFS_POINTER.match(data.removeprefix(b"\xef\xbb\xbf")) is not None


def refuse_lfs_pointer(path: str | Path, data: bytes | None = None, error: type[NotaError] = NotaError) -> None:
    """Refuse a file that git wrote in the place of the real one because git-lfs is not installed.

    Call it before a parser sees the file: what parsers say about a pointer ("header too large", "Expecting value")
    helps nobody.

    Args:
        path: the file, for the message; read if `data` is not given. A file that cannot be read is left to its reader.
        data: its content, or the beginning of it, where that is in memory already.
        error: the kind of error to raise.

    Raises:
        NotaError: it is a pointer; the message names the file and the remedy.
    """
    if data is None:
        try:
            with Path(path).open("rb") as file:
                data = file.read(LFS_POINTER_BYTES)
        except OSError:
            return  # missing, a folder, not allowed: its reader says so
    if is_lfs_pointer(data):
        raise error(
            f"{path} is a Git LFS pointer, not the file itself. Install git-lfs, then run `git lfs pull` in the "
            "clone that it comes from, or download the file."
        )


def sweep(target: Path) -> None:
    """Remove what killed processes have left of `atomic_path`; for the one process that may write `target`."""
    for path in leavings(target):
        _remove(path)


def sweep_folder(folder: Path) -> None:
    """Remove what killed processes have left of `atomic_path` anywhere in a folder that one process alone writes."""
    for path in Path(folder).rglob(".*.part"):
        if re.fullmatch(r"\..+" + PART, path.name):
            _remove(path)


def leavings(target: Path) -> list[Path]:
    """What killed processes have left of `atomic_path`, beside `target`."""
    target = Path(target)
    ours = re.compile(re.escape(f".{target.name}") + PART)
    try:
        return [path for path in target.parent.iterdir() if ours.fullmatch(path.name)]
    except OSError:  # no folder, or none that can be listed
        return []


def lock(file: IO[Any], *, wait: bool) -> bool:
    """Keep other processes from locking an open file until it is closed.

    Args:
        file: open for writing.
        wait: for another process that has it locked.

    Returns:
        Whether it is locked; False on a file system without locks.

    Raises:
        BlockingIOError: another process has it locked.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        return False
    return True


def file_sha256(file: Path) -> str:
    """Hexadecimal digits of a file's bytes."""
    with Path(file).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def copy_folder(source: Path, target: Path) -> None:
    """Copy the files of a folder into another one, without modes and times, which some file systems refuse."""
    for path in sorted(Path(source).rglob("*")):
        if path.is_file():
            copy = Path(target) / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def sync(descriptor: int) -> None:
    """Wait until a file is on the disk, where its file system has a way to know.

    Raises:
        OSError: the disk is full or fails.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in REFUSED:
            raise


def _remove(path: Path) -> None:
    with suppress(OSError):  # of use to nobody, and in nobody's way
        path.unlink()


def _of_another_user(target: Path) -> bool:
    """Whether `target` is a file that may not be replaced, as its folder (/tmp, for one) lets its owner alone do so."""
    try:
        folder, file = os.stat(target.parent), os.stat(target)
    except OSError:
        return False
    user = os.geteuid()
    return bool(folder.st_mode & stat.S_ISVTX) and user not in (0, folder.st_uid, file.st_uid)


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
    with suppress(OSError):  # nice to have; CIFS, gcsfuse and others give every file the mode of their mount
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
    if path.is_file():
        with path.open("rb+") as written:
            sync(written.fileno())
