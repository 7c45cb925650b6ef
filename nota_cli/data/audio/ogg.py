"""Ogg files page by page: the streams of a chain, and whether the last of them is whole (RFC 3533)."""

import os
import struct

PAGE = 27 + 255 + 255 * 255  # bytes at most: head, lengths of the segments, segments
HEAD = struct.Struct("<4sxB20xB")  # name, flags, number of segments
FIRST, LAST = 0x02, 0x04  # flags of a stream's first and last page


def links(descriptor: int) -> list[tuple[int, int]]:
    """Where the links of a chain begin and end, in bytes; a file that is no chain has one.

    A link begins with the first pages of its streams, of which there may be several, side by side.
    """
    size = os.fstat(descriptor).st_size
    starts = []
    body_seen = True
    offset = 0
    while offset < size:
        head = os.pread(descriptor, HEAD.size + 255, offset)
        if len(head) < HEAD.size or head[:5] != b"OggS\0":
            offset = _next_page(descriptor, offset + 1)
            continue
        _, flags, segments = HEAD.unpack_from(head)
        if flags & FIRST and body_seen:
            starts.append(offset)
        body_seen = not flags & FIRST
        offset += HEAD.size + segments + sum(head[HEAD.size : HEAD.size + segments])
    return list(zip(starts, [*starts[1:], size], strict=True)) if starts else [(0, size)]


def is_cut(descriptor: int) -> bool:
    """Whether the last page is not whole or not marked as its stream's last.

    Streams in a chain are marked each, so the last one's end is the file's. What is no page may follow it, be it the
    zeros of a download that was broken off; so pages are looked for from the end on.
    """
    size = stop = os.fstat(descriptor).st_size
    mark = -1
    while mark < 0 and stop > 0:
        start = max(0, stop - PAGE)
        mark = os.pread(descriptor, stop - start + 4, start).rfind(b"OggS\0")
        stop = start
    if mark < 0:
        return False  # other versions of Ogg do not exist; libsndfile says what it is
    page = os.pread(descriptor, HEAD.size + 255, start + mark)
    if len(page) < HEAD.size:
        return True
    _, flags, segments = HEAD.unpack_from(page)
    lengths = page[HEAD.size : HEAD.size + segments]
    end = start + mark + HEAD.size + segments + sum(lengths)
    return not flags & LAST or len(lengths) < segments or end > size


def _next_page(descriptor: int, offset: int) -> int:
    """Where the next page begins, the file's end if there is none."""
    while block := os.pread(descriptor, PAGE, offset):
        at = block.find(b"OggS\0")
        if at >= 0:
            return offset + at
        offset += max(1, len(block) - 4)
    return offset
