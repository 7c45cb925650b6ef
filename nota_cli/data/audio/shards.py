"""Recordings inside tar files (shards, as WebDataset lays them out): `shard-0001.tar/000123.flac` names one of them.

Where each member lies is read from a shard's headers once and kept (`nota_cli.data.kept`), so that any is read alone.
"""

import errno
import functools
import hashlib
import os
import posixpath
import tarfile
from contextlib import suppress
from typing import Any

import numpy as np

from nota_cli.data.kept import kept_folder, writing
from nota_cli.errors import DataError, printable
from nota_cli.files import atomic_path
from nota_cli.paths import tar_member

INDEXES_KEPT = 512  # in memory; of a shard of 1000 members one takes some 50 kB
SHARDS_OPEN = 64
COPIED_AT_ONCE = 2**20
READ_AHEAD_BYTES = 2**23


def member_status(shard: str, name: str) -> tuple[int, int]:
    """Bytes of a member, and when its shard was changed [ns].

    Raises:
        FileNotFoundError: there is no such member.
        DataError: the shard is no tar file, or has a member twice.
        OSError: it cannot be read.
    """
    return int(_entry(shard, name)["size"]), os.stat(shard).st_mtime_ns


def open_member(shard: str, name: str) -> int:
    """A descriptor of a file in memory that holds what the member does. Raises as `member_status`."""
    entry = _entry(shard, name)
    start, size, done = int(entry["offset"]), int(entry["size"]), 0
    source = _open_shard(shard, *_state(shard))  # at hand until the last byte is read, whoever else opens shards
    copy = os.memfd_create("nota-member")
    try:
        while done < size:
            data = os.pread(source.descriptor, min(size - done, COPIED_AT_ONCE), start + done)
            if not data:
                raise OSError(errno.EIO, f"the shard ends before its member {name} does")
            done += os.pwrite(copy, data, done)
    except BaseException:
        os.close(copy)
        raise
    return copy


def read_ahead(path: str | os.PathLike[str]) -> None:
    """Have the system read a recording's shard from there on, in one piece; nothing of a file that lies in none.

    Of rows that are read nearly as they lie, those that come next are then in memory. Where it cannot, nothing happens.
    """
    member = tar_member(path)
    if member is None or not hasattr(os, "posix_fadvise"):
        return
    with suppress(OSError, DataError):  # who reads the member says what is wrong
        start = int(_entry(*member)["offset"])
        opened = _open_shard(member[0], *_state(member[0]))
        os.posix_fadvise(opened.descriptor, start, READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)


def member_names(shard: str) -> list[str]:
    """Names of its members as they lie in a shard. Raises as `member_status`."""
    index = _index(shard, *_state(shard))
    return [os.fsdecode(name) for name in index["name"][np.argsort(index["offset"])].tolist()]


def read_member(shard: str, name: str) -> bytes:
    """What a member holds. Raises as `member_status`."""
    with open(open_member(shard, name), "rb") as file:
        return file.read()


def _entry(shard: str, name: str) -> Any:
    index = _index(shard, *_state(shard))
    wanted = np.bytes_(os.fsencode(name))
    position = int(np.searchsorted(index["name"], wanted))
    if position == len(index) or index["name"][position] != wanted:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{shard}/{name}")
    return index[position]


def _state(shard: str) -> tuple[int, int]:
    status = os.stat(shard)
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=INDEXES_KEPT)
def _index(shard: str, size: int, changed: int) -> "np.ndarray[Any, Any]":
    """The members of a shard, sorted by name: `name`, `offset` and `size` in bytes."""
    state = f"{os.path.realpath(shard)}\0{size}\0{changed}"
    file = kept_folder() / f"tar-{hashlib.sha256(os.fsencode(state)).hexdigest()[:32]}.npy"
    if not file.exists():
        with writing(file):
            if not file.exists():
                with atomic_path(file) as part, part.open("wb") as opened:
                    np.save(opened, _read_headers(shard))
    try:
        return np.asarray(np.load(file))
    except (ValueError, EOFError) as error:
        raise DataError(f"{file}, which is kept of {printable(shard)}, is damaged; delete it") from error


def _read_headers(shard: str) -> "np.ndarray[Any, Any]":
    label = printable(shard)
    members: dict[bytes, tuple[int, int]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.isreg() and not member.issparse():
                    name = os.fsencode(posixpath.normpath(member.name))
                    if name in members:
                        raise DataError(f"{label} has the member {member.name} twice; write it again with one of them")
                    members[name] = member.offset_data, member.size
    except tarfile.TarError as error:
        raise DataError(f"{label} is no whole tar file without compression ({error}); write it again") from error
    kind = [("name", f"S{max(map(len, members), default=1)}"), ("offset", np.int64), ("size", np.int64)]
    return np.array([(name, *where) for name, where in sorted(members.items())], dtype=kind)


@functools.lru_cache(maxsize=SHARDS_OPEN)
def _open_shard(shard: str, size: int, changed: int) -> "_Opened":
    return _Opened(os.open(shard, os.O_RDONLY))


class _Opened:
    """A descriptor that is closed when nobody remembers it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)
