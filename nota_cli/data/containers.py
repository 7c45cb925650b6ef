"""What libsndfile leaves unsaid: WAV files and Ogg streams that end too early, WAV files that state no size."""

import io
import os
import struct
from typing import Any

# Programs that write to a pipe cannot know the length and state 0 or a huge one: espeak-ng 0x7ffff000, ffmpeg 2^32 - 1.
STREAMED_SIZE = 0x7FFF_F000
MOST_CHUNKS = 1_000  # of a WAV file looked at on the way to its samples; zeros for chunks would keep one going for ever
OGG_PAGE = 27 + 255 + 255 * 255  # bytes at most: head, lengths of the segments, segments
OGG_HEAD = struct.Struct("<4sxB20xB")  # name, flags, number of segments
OGG_LAST = 0x04  # the flag of a stream's last page


def truncation(descriptor: int) -> tuple[str, str] | None:
    """Why an open file is known to end too early, and what to do about it; None if nothing tells so.

    A stream of Ogg has to come to its marked end (RFC 3533); a WAV file has to have the bytes that its `data` chunk
    promises.
    """
    start = os.pread(descriptor, 4, 0)
    if start == b"OggS" and _ogg_is_cut(descriptor):
        remedy = "Copy it again; if the recording itself was broken off, convert what there is to wav."
        return "truncated: the file ends before its stream does", remedy
    place, size = _wav_samples(descriptor) or (0, 0)
    missing = place + size - os.fstat(descriptor).st_size
    if missing > 0 and size < STREAMED_SIZE:
        return f"truncated: the header promises {missing} bytes more than the file has", "Copy it again."
    return None


def readable(descriptor: int) -> "int | UnsizedWav":
    """What libsndfile should read of an open file: the file, unless it is a WAV file that states 0 for its samples."""
    place, size = _wav_samples(descriptor) or (0, 1)
    left = os.fstat(descriptor).st_size - place
    if size or not left:
        return descriptor
    name, length = struct.unpack("<4sI", os.pread(descriptor, 8, place).ljust(8, b"\0"))
    another_chunk = all(0x20 <= letter < 0x7F for letter in name) and 8 + length <= left
    return descriptor if another_chunk else UnsizedWav(descriptor)


class UnsizedWav(io.FileIO):
    """A WAV file whose samples reach to its end, whatever size it states.

    libsndfile takes a form of 8 bytes for a file that was never finished, and then goes by the file's length; so that
    is what it is shown.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, closefd=False)

    def readinto(self, buffer: Any) -> int:
        """Read as any file does, but 8 for the form's size (bytes 4 to 7)."""
        place = self.tell()
        count = super().readinto(buffer) or 0
        bytes_read = memoryview(buffer).cast("B")
        for at, value in enumerate(struct.pack("<I", 8), 4 - place):
            if 0 <= at < count:
                bytes_read[at] = value
        return count


def _wav_samples(descriptor: int) -> tuple[int, int] | None:
    """Where the samples of a RIFF WAVE file begin and how many bytes it states; None for anything else."""
    head = os.pread(descriptor, 12, 0)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    place = 12
    for _ in range(MOST_CHUNKS):
        chunk = os.pread(descriptor, 8, place)
        if len(chunk) < 8:
            break
        place += 8
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            return place, size
        place += size + size % 2  # chunks start at even places
    return None


def _ogg_is_cut(descriptor: int) -> bool:
    """Whether the last page is not whole or not marked as its stream's last.

    Streams in a chain are marked each, so the last one's end is the file's. What is no page may follow it, be it the
    zeros of a download that was broken off; so pages are looked for from the end on.
    """
    size = stop = os.fstat(descriptor).st_size
    found = -1
    while found < 0 and stop > 0:
        start = max(0, stop - OGG_PAGE)
        found = os.pread(descriptor, stop - start + 4, start).rfind(b"OggS\0")
        stop = start
    if found < 0:
        return False  # other versions of Ogg do not exist; libsndfile says what it is
    page = os.pread(descriptor, OGG_HEAD.size + 255, start + found)
    if len(page) < OGG_HEAD.size:
        return True
    _, flags, segments = OGG_HEAD.unpack_from(page)
    lengths = page[OGG_HEAD.size : OGG_HEAD.size + segments]
    end = start + found + OGG_HEAD.size + segments + sum(lengths)
    return not flags & OGG_LAST or len(lengths) < segments or end > size
