"""Parts of an open file, and bytes of our own between them, shown to libsndfile as one file."""

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

Piece = tuple[int, int] | bytes
"""Bytes `start` to `stop` of a file, or bytes that stand in their stead."""


class View(io.RawIOBase):
    """A file that is made of pieces of another one; what lies behind them reads as zeros.

    Args:
        descriptor: the other file, which stays open.
        pieces: what it is made of, in order.
        size: bytes it claims to have, if not those of its pieces.

    Attributes:
        error: what the disk answered when a read failed. libsndfile takes such a file for one that ends there.
    """

    def __init__(self, descriptor: int, pieces: Sequence[Piece], size: int | None = None) -> None:
        super().__init__()
        self._descriptor, self._pieces = descriptor, pieces
        self._ends = list(accumulate(piece_length(piece) for piece in pieces))
        self._size = self._ends[-1] if size is None else size
        self._position = 0
        self.error: OSError | None = None

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be read from anywhere."""
        return True

    def tell(self) -> int:
        """The next byte to be read."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As in any file."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the file goes; returns the bytes read."""
        target = memoryview(buffer).cast("B")
        filled = 0
        try:
            while filled < len(target) and (data := self._next(len(target) - filled)):
                target[filled : filled + len(data)] = data
                filled += len(data)
                self._position += len(data)
        except OSError as error:
            self.error = error
        return filled

    def _next(self, count: int) -> bytes:
        """At most `count` bytes from the present position, none at the end."""
        index = bisect_right(self._ends, self._position)
        if index == len(self._pieces):
            return bytes(max(0, min(count, self._size - self._position)))
        piece = self._pieces[index]
        inside = self._position - (self._ends[index] - piece_length(piece))
        if isinstance(piece, bytes):
            return piece[inside : inside + count]
        return os.pread(self._descriptor, min(count, piece[1] - piece[0] - inside), piece[0] + inside)


def piece_length(piece: Piece) -> int:
    """Bytes of a piece."""
    return len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]


def patched(start: int, stop: int, patches: dict[int, bytes]) -> tuple[Piece, ...]:
    """Bytes `start` to `stop` of a file with other bytes at some offsets of the file."""
    pieces: list[Piece] = []
    for offset, data in sorted(patches.items()):
        pieces += [(start, offset), data]
        start = offset + len(data)
    return tuple(piece for piece in (*pieces, (start, stop)) if piece_length(piece))
