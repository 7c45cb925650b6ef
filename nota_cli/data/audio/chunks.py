"""Files made of chunks (WAV, RF64, W64, AIFF, CAF) and AU: where their samples lie, which size they state for them."""

import os
import struct
from dataclasses import dataclass

# Programs that write to a pipe cannot know the length and state 0 or a huge one: espeak-ng 0x7ffff000, ffmpeg
# 2^32 - 1 or -1, sox 0x7f000008 in AIFF.
STREAMED_SIZE = 0x7FFF_F000
STREAMED_AIFF = 0x7F00_0000
STREAMED_WIDE = 1 << 60
HEAD_BYTES = 512
FORM_BYTES = 24  # of a chunk that describes the samples, at most, as far as it is read here
MOST_CHUNKS = 1_000  # looked at on the way to the samples; zeros for chunks would keep one going for ever
W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0"
W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\0\xc0\x4f\x8e\xdb\x8a"
PLAIN_TAGS = (1, 3, 6, 7, 0xFFFE)  # of WAV formats whose samples have a size of their own: PCM, float, A-law, mu-law
AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}  # of a sample, by AU's encodings


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a container writes its chunks: `fixed` are bytes of a chunk's head that its size counts, `before` others
    that stand between the head and the samples."""

    first: int
    head: struct.Struct
    align: int
    names: tuple[bytes, ...]
    fixed: int = 0
    before: int = 0
    streamed: int = STREAMED_SIZE


_RIFF = _Kind(12, struct.Struct("<4sI"), 2, (b"data",))
_KINDS = {
    b"RIFF": _RIFF,
    b"RIFX": _Kind(12, struct.Struct(">4sI"), 2, (b"data",)),
    b"RF64": _RIFF,
    b"BW64": _RIFF,
    b"FORM": _Kind(12, struct.Struct(">4sI"), 2, (b"SSND", b"BODY"), before=8, streamed=STREAMED_AIFF),
    b"caff": _Kind(8, struct.Struct(">4sQ"), 1, (b"data",), before=4, streamed=STREAMED_WIDE),
    b"riff": _Kind(40, struct.Struct("<16sQ"), 8, (W64_DATA,), fixed=24, streamed=STREAMED_WIDE),
}
_FORMS: dict[bytes, tuple[bytes, ...]] = {
    b"RIFF": (b"WAVE",),
    b"RIFX": (b"WAVE",),
    b"RF64": (b"WAVE",),
    b"BW64": (b"WAVE",),
    b"FORM": (b"AIFF", b"AIFC", b"8SVX", b"16SV"),
}


@dataclass(slots=True)
class Samples:
    """The samples of a file, or of one of several that were joined.

    Attributes:
        magic: the container, by its first four bytes.
        base: where in the file the container begins.
        start: where the samples begin.
        size: bytes that are stated for them.
        block: bytes of one sample of all channels; 0 where these have no size of their own.
        unstated: no size is stated that could be meant.
        wide: where RF64 keeps its sizes.
        codec: the format tag of a WAV file.
    """

    magic: bytes
    base: int
    start: int
    size: int
    block: int
    unstated: bool
    wide: int = 0
    codec: int = 0

    @property
    def stop(self) -> int:
        """Where they end, as stated."""
        return self.start + self.size


def is_container(head: bytes) -> bool:
    """Whether a file of these first 16 bytes is of a kind that `samples` knows."""
    magic = head[:4]
    if magic in _FORMS:
        return head[8:12] in _FORMS[magic]
    return magic == b"caff" or (magic == b".snd" and len(head) >= 16) or head[:16] == W64_RIFF


def samples(descriptor: int, base: int = 0) -> Samples | None:
    """Where the samples of a container lie that begins at `base`; None if it is none, or has none."""
    head = os.pread(descriptor, HEAD_BYTES, base)  # most end within, so that it is the only reading
    if not is_container(head):
        return None
    magic = head[:4]
    if magic == b".snd":
        return _au(head, base)
    kind = _KINDS[magic]
    width = kind.head.size
    offset, block, wide, codec = base + kind.first, 0, 0, 0
    for _ in range(MOST_CHUNKS):
        inside = offset - base
        chunk = head[inside : inside + width + FORM_BYTES]
        if len(chunk) < width + FORM_BYTES:
            chunk = os.pread(descriptor, width + FORM_BYTES, offset)
        if len(chunk) < width:
            break
        name, size = kind.head.unpack_from(chunk)
        offset += width
        if name in kind.names:
            unstated = size >= kind.streamed or size <= kind.fixed + kind.before
            stated = size - kind.fixed
            if magic in (b"RF64", b"BW64") and size == 0xFFFF_FFFF and wide:
                stated = int.from_bytes(os.pread(descriptor, 8, wide + 8), "little")
                unstated = not 0 < stated < STREAMED_WIDE
            return Samples(magic, base, offset, max(stated, 0), block, unstated, wide, codec)
        if name == b"ds64":
            wide = offset
        body = chunk[width:]
        if name == b"fmt " and len(body) >= 2:
            codec = int(struct.unpack_from("<H", body)[0])
        block = _block(name, body) or block
        offset += size - kind.fixed + -size % kind.align
        if not base < offset < STREAMED_WIDE:
            break  # a size that is damaged leads nowhere
    return None


def sized(part: Samples, size: int) -> dict[int, bytes]:
    """Bytes of the header, by their offsets in the file, that state what is there.

    Args:
        found: samples without a stated size.
        size: bytes of the file.
    """
    there = size - part.start
    if part.magic in (b"RF64", b"BW64") and part.wide:
        count = there // part.block if part.block else 0
        return {
            part.start - 4: struct.pack("<I", 0xFFFF_FFFF),
            part.wide: struct.pack("<QQQ", size - part.base - 8, there, count),
        }
    if part.magic == b"caff":
        return {part.start - 8: struct.pack(">Q", there)}
    if part.magic == b"riff":
        return {
            part.base + 16: struct.pack("<Q", size - part.base),
            part.start - 8: struct.pack("<Q", there + 24),
        }
    if part.magic in (b"RIFF", b"RIFX", b"RF64", b"BW64") and not part.size:
        # libsndfile takes a form of 8 bytes for a file that was never finished, and then goes by the file's length.
        return {part.base + 4: struct.pack(">I" if part.magic == b"RIFX" else "<I", 8)}
    return {}  # libsndfile reads these to the file's end


def _au(head: bytes, base: int) -> Samples:
    offset, size, encoding, _, channels = struct.unpack(">IIIII", head[4:24].ljust(20, b"\0"))
    block = AU_BYTES.get(encoding, 0) * channels
    return Samples(b".snd", base, base + offset, size, block, size >= STREAMED_SIZE)


def _block(name: bytes, body: bytes) -> int:
    """Bytes of a sample of all channels as the chunk that describes them has it; 0 if it is another chunk."""
    if name[:4] == b"fmt " and len(body) >= 16:
        little, big = struct.unpack_from("<H", body)[0], struct.unpack_from(">H", body)[0]
        if little in PLAIN_TAGS:
            return int(struct.unpack_from("<H", body, 12)[0])
        return int(struct.unpack_from(">H", body, 12)[0]) if big in PLAIN_TAGS else 0
    if name == b"COMM" and len(body) >= 8:
        channels, _, bits = struct.unpack_from(">HIH", body)
        return int(channels * -(-bits // 8))
    if name == b"desc" and len(body) >= 20:
        return int(struct.unpack_from(">I", body, 16)[0])
    return 0
