"""MPEG audio (MP3, MP2) frame by frame: libsndfile only estimates its length where no Xing header states one."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from nota_cli.data.audio.views import Piece, patched

BLOCK = 1 << 20  # bytes read at once
JUNK = 1 << 16  # bytes before the first frame that are searched for it
LONGEST_FRAME = 2_881  # bytes: layer II, 384 kbit/s at 32 kHz in MPEG-1, and 160 kbit/s at 8 kHz in MPEG-2.5
LONGEST_FREE_FRAME = 1 << 13  # bytes: 640 kbit/s at 32 kHz, which LAME writes at most, and more
OVERSTATED = 128  # the longest frame is shorter than so many of the shortest

SAME_STREAM = 0xFFFE_0C00  # sync, version, layer, sample rate: alike in all frames of a stream
XING_FRAMES, XING_BYTES = 1, 2  # flags of the fields that follow, in this order
RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # by version bits
KILOBITS = {  # by version 1 or not, and layer
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def _frame_samples(version: int, layer: int) -> int:
    return {1: 384, 2: 1152, 3: 1152 if version == 3 else 576}[layer]


def _length(key: int) -> int:
    """Bytes of a frame by bits 9 to 20 of its header; 0 where these are no frame's that can be followed."""
    version, layer, kilobits, rate = key >> 10, 4 - (key >> 8 & 3), key >> 3 & 15, key >> 1 & 3
    if version == 1 or layer == 4 or not 0 < kilobits < 15 or rate == 3:
        return 0
    bits = KILOBITS[version == 3, layer][kilobits - 1] * 1000
    slot = 4 if layer == 1 else 1
    return (_frame_samples(version, layer) // 8 * bits // RATES[version][rate] // slot + (key & 1)) * slot


LENGTHS = tuple(_length(key) for key in range(1 << 12))


@dataclass(slots=True)
class MpegStream:
    """Frames of like version, layer and rate, with the Xing header that may stand before them.

    Attributes:
        pieces: where they lie in the file.
        samples: of each frame, per channel.
        frames: how many follow the Xing header.
        stated: frames that this header states; None where there is no such header, or no number in it.
        promised: bytes that it states, or 0.
        count_at: where in the file the number of frames stands.
    """

    samples: int
    pieces: list[tuple[int, int]] = field(default_factory=list)
    frames: int = 0
    stated: int | None = None
    promised: int = 0
    count_at: int = 0
    key: int = 0

    def add(self, start: int, stop: int) -> None:
        """Append a frame."""
        if self.pieces and self.pieces[-1][1] == start:
            self.pieces[-1] = (self.pieces[-1][0], stop)
        else:
            self.pieces.append((start, stop))

    @property
    def short(self) -> bool:
        """Whether the header states, twice, that there was more: a copy may have been broken off between frames."""
        there = sum(stop - start for start, stop in self.pieces)
        return self.stated is not None and self.stated > self.frames + 1 and self.promised > there + LONGEST_FRAME

    def for_libsndfile(self) -> tuple[tuple[Piece, ...], int | None, int | None]:
        """What libsndfile is shown: pieces, the bytes they seem to have, and the samples that are in them.

        A Xing header's number is put right. Where none stands, libsndfile estimates from the file's size how much
        can be read; so it is shown a size far beyond, and what is read is what was counted. The number of samples is
        None where the header rules, which may also state how many at the start and the end are no sound.
        """
        if self.stated is not None:
            patches = {self.count_at: struct.pack(">I", self.frames)}
            first, *others = self.pieces
            return (*patched(*first, patches), *others), None, None
        size = sum(stop - start for start, stop in self.pieces)
        return tuple(self.pieces), size * OVERSTATED, self.frames * self.samples


@dataclass(slots=True)
class Mpeg:
    """An MPEG audio file.

    Attributes:
        streams: one, or several that were joined.
        cut: its last frame is not whole.
        junk: bytes that are neither frames nor tags, and those before its start.
    """

    streams: list[MpegStream]
    cut: bool = False
    junk: int = 0

    @property
    def plain(self) -> bool:
        """Whether a header states how many frames there are, and they lie side by side."""
        first = self.streams[0]
        return len(self.streams) == 1 == len(first.pieces) and first.stated == first.frames and not self.junk


def looks_like_mpeg(start: bytes) -> bool:
    """Whether a file's first bytes may be those of an MPEG frame, or of tags before one."""
    tagged = start[:3] in (b"ID3", b"TAG") or start[:8] == b"APETAGEX"
    return tagged or _frame_length(start, 0) > 0 or _states_no_bit_rate(int.from_bytes(start[:4], "big"))


def is_free_format(descriptor: int) -> bool:
    """Whether two frames alike begin a file, behind tags, that state no bit rate and may have any length."""
    file = _File(descriptor, None)
    offset = 0
    while skipped := file.tag(offset):
        offset += skipped
    word = file.word(offset)
    if not _states_no_bit_rate(word):
        return False
    rest = file.at(offset + 4, LONGEST_FREE_FRAME)
    at = rest.find(b"\xff")
    while at >= 0:
        other = int.from_bytes(rest[at : at + 4], "big")
        if _states_no_bit_rate(other) and _key(other) == _key(word):
            return True
        at = rest.find(b"\xff", at + 1)
    return False


def _states_no_bit_rate(word: int) -> bool:
    version, layer, kilobits, rate = word >> 19 & 3, word >> 17 & 3, word >> 12 & 15, word >> 10 & 3
    return word >> 21 == 0x7FF and version != 1 and layer != 0 and kilobits == 0 and rate != 3


def read_mpeg(descriptor: int, *, junk: int = 0, start: int = 0, stop: int | None = None) -> Mpeg | None:
    """Every frame of an MPEG audio file; None if it is none, or one of free format, whose frames have any length.

    Tags (ID3v1, ID3v2, APE, Lyrics3) are passed over wherever they stand.

    Args:
        descriptor: the open file.
        junk: bytes before the first frame that may be anything.
        start: where in the file it begins, for one inside of another.
        stop: where it ends; None for the file's end.
    """
    file = _File(descriptor, stop)
    offset = _first_frame(file, start, junk)
    if offset is None:
        return None
    audio = Mpeg([], junk=offset if junk else start)
    stream: MpegStream | None = None
    while file.has(offset, 4):
        word = file.word(offset)
        length = LENGTHS[word >> 9 & 0xFFF] if word >> 21 == 0x7FF else 0
        if length and stream is not None and _key(word) == stream.key:
            pass
        elif length and (stream is None or _confirmed(file, offset)):
            stream = MpegStream(_frame_samples(word >> 19 & 3, 4 - (word >> 17 & 3)), key=_key(word))
            audio.streams.append(stream)
        else:
            skipped = file.tag(offset)
            if not skipped:
                following = _resync(file, offset + 1)
                if following is None:
                    break  # junk behind the last frame
                audio.junk += following - offset
                skipped = following - offset
            offset += skipped
            continue
        if offset + length > file.size:
            audio.cut = True
            break
        if header := _info(file, offset, word):
            stated, promised, at = header
            if stream.frames:
                stream = MpegStream(stream.samples, key=stream.key)
                audio.streams.append(stream)
            if stated is not None:
                stream.stated, stream.promised, stream.count_at = stated, promised, at
                stream.add(offset, offset + length)
        else:
            stream.add(offset, offset + length)
            stream.frames += 1
        offset += length
    else:
        rest = file.at(offset, 3)
        audio.cut = bool(rest) and stream is not None and struct.pack(">I", stream.key).startswith(rest[:1])
    audio.streams = [stream for stream in audio.streams if stream.frames]
    return audio if audio.streams else None


def _key(word: int) -> int:
    """What is alike in all headers of a stream: besides version, layer and rate, whether it has one channel or two."""
    return word & SAME_STREAM | (word >> 6 & 3 == 3)


class _File:
    """An open file read forwards in blocks."""

    def __init__(self, descriptor: int, stop: int | None) -> None:
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size if stop is None else stop
        self._block, self._start = b"", 0

    def at(self, offset: int, count: int) -> bytes:
        """`count` bytes, fewer at the file's end."""
        inside = offset - self._start
        if inside < 0 or inside + count > len(self._block):
            self._start = max(0, offset - 3 * LONGEST_FRAME)  # whoever looks ahead comes back
            self._block = os.pread(self.descriptor, BLOCK + count, self._start)
            inside = offset - self._start
        return self._block[inside : inside + count]

    def has(self, offset: int, count: int) -> bool:
        return offset + count <= self.size and len(self.at(offset, count)) == count

    def word(self, offset: int) -> int:
        return int.from_bytes(self.at(offset, 4), "big")

    def tag(self, offset: int) -> int:
        """Bytes of the tag that stands there, 0 if none does."""
        head = self.at(offset, 32)
        if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 128:
            size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
            return min(10 + size + (10 if head[5] & 0x10 else 0), self.size - offset)
        if head[:3] == b"TAG" and self.size - offset >= 128:
            return 128 if head[:4] != b"TAG+" else min(227, self.size - offset)
        if head[:8] == b"APETAGEX" and len(head) == 32:
            size, flags = struct.unpack("<I4xI", head[12:24])
            is_header = flags >> 29 & 1
            return min(32 + (size if is_header else 0), self.size - offset)
        if head[:11] == b"LYRICSBEGIN":
            end = min(self.find(b"LYRICS200", offset), self.find(b"LYRICSEND", offset))
            return min(end + 9, self.size) - offset
        return 0

    def find(self, text: bytes, offset: int) -> int:
        """Where a text stands next, in so many bytes as such a tag may have; the file's end if nowhere."""
        at = self.at(offset, BLOCK).find(text)
        return self.size if at < 0 else offset + at


def _first_frame(file: _File, offset: int, junk: int) -> int | None:
    while skipped := file.tag(offset):
        offset += skipped
    zeros = len(head := file.at(offset, JUNK)) - len(head.lstrip(b"\0"))
    if _confirmed(file, offset + zeros):  # some taggers leave room
        return offset + zeros
    return _resync(file, offset, offset + junk) if junk else None


def _confirmed(file: _File, offset: int) -> bool:
    """Whether a frame begins there that another one, a tag or the file's end follows."""
    length = _frame_length(file.at(offset, 4), 0)
    if not length:
        return False
    following = offset + length
    if following >= file.size or file.tag(following):
        return True
    head = file.at(following, 4)
    return _frame_length(head, 0) > 0 and _key(file.word(offset)) == _key(file.word(following))


def _frame_length(data: bytes, offset: int) -> int:
    word = int.from_bytes(data[offset : offset + 4], "big") if len(data) >= offset + 4 else 0
    return LENGTHS[word >> 9 & 0xFFF] if word >> 21 == 0x7FF else 0


def _resync(file: _File, offset: int, stop: int | None = None) -> int | None:
    """Where the next frame begins that two others follow; None if there is none before `stop`."""
    stop = file.size if stop is None else min(stop, file.size)
    for candidate in _syncs(file, offset, stop):
        if _confirmed(file, candidate):
            second = candidate + _frame_length(file.at(candidate, 4), 0)
            if second >= file.size or file.tag(second) or _confirmed(file, second):
                return candidate
        elif file.tag(candidate):
            return candidate
    return None


def _syncs(file: _File, offset: int, stop: int) -> Iterator[int]:
    """Places from which a frame or an ID3v2 tag may begin."""
    while offset < stop:
        block = os.pread(file.descriptor, min(BLOCK, stop - offset), offset)
        if not block:
            return
        marks = []
        for first in (b"\xff", b"ID3"):
            at = block.find(first)
            while at >= 0:
                if first != b"\xff" or at + 1 == len(block) or block[at + 1] >= 0xE0:
                    marks.append(at)
                at = block.find(first, at + 1)
        yield from (offset + at for at in sorted(marks))
        offset += len(block)


def _info(file: _File, offset: int, word: int) -> tuple[int | None, int, int] | None:
    """What a frame that holds no sound but a header states: frames, bytes, and where the number of frames stands."""
    version, mono = word >> 19 & 3, word >> 6 & 3 == 3
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    if word >> 17 & 3 != 1:
        return None  # layers I and II have none
    data = file.at(offset, 4 + 36 + 16)
    if data[36:40] == b"VBRI":
        return None, 0, 0
    at = next((at for at in (4 + side, 6 + side) if data[at : at + 4] in (b"Xing", b"Info")), None)  # 6: with a CRC
    if at is None:
        return None
    flags, first, second = struct.unpack(">III", data[at + 4 : at + 16].ljust(12, b"\0"))
    if not flags & XING_FRAMES:
        return None, 0, 0
    return first, second if flags & XING_BYTES else 0, offset + at + 8
