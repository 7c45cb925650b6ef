"""What libsndfile leaves unsaid: files that end too early, that state no size or a guess, that are several in one."""

import os
import struct
from dataclasses import dataclass

from nota_cli.data.audio import ogg
from nota_cli.data.audio.chunks import Samples, is_container, samples, sized
from nota_cli.data.audio.layout_cache import remembered
from nota_cli.data.audio.mpeg import JUNK, Mpeg, is_free_format, looks_like_mpeg, read_mpeg
from nota_cli.data.audio.sphere import missing_bytes
from nota_cli.data.audio.views import Piece, patched

AGAIN = "Copy it again; if the recording itself was broken off, convert what there is to wav."
FREE_FORMAT = (
    "it is an MP3 of free format: its frames state no bit rate, so that nothing tells how long they are",
    "Convert it to wav or flac.",
)
MPEG_TAGS = (0x50, 0x55)  # WAV formats: MP2, MP3
MOST_JOINED = 10_000  # files in one
FLAC_HEADS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")  # a marker and the head of the first block
FLAC_HEAD_BYTES = 42
FLAC_FRAMES = struct.Struct(">4x4xHH3s3sQ")  # block sizes, frame sizes, then rate, channels, bits, samples
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Stream:
    """One sound of a file, as libsndfile is to see it.

    Attributes:
        pieces: bytes of the file; none for the whole of it.
        size: bytes that it is to seem to have, if not those of the pieces.
        frames: how many samples of each channel there are, where libsndfile would only guess.
    """

    pieces: tuple[Piece, ...] = ()
    size: int | None = None
    frames: int | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """The sounds of a file, one behind the other.

    Attributes:
        streams: one, or those of a chain, or of files that were joined.
        refusal: why the file cannot be read, or is known to end too early, and what to do about it.
        damage: what is odd and does not keep it from being read.
        whole: looked at to its end; else another sound may follow behind the first one.
    """

    streams: tuple[Stream, ...] = (Stream(),)
    refusal: tuple[str, str] | None = None
    damage: str = ""
    whole: bool = True


PLAIN = Layout()
OPEN = Layout(whole=False)


def layout(descriptor: int, start: bytes, *, whole: bool = True) -> Layout:
    """What an open file consists of.

    A WAV file and its kin have to have the bytes that they promise, Ogg has to come to its stream's marked end, the
    last frame of an MP3 has to be whole. An MP3 is counted, for most state no length or a wrong one.

    Args:
        descriptor: the file.
        start: its first 64 bytes.
        whole: read a FLAC file to its end, too, for others that were joined to it; else only if its size is odd.
    """
    if is_container(start):
        return _joined_chunks(descriptor)
    if start[:4] == b"fLaC":
        odd = whole or _more_than_stated(descriptor, start)
        return remembered(descriptor, _flac) if odd else OPEN
    if start[:4] == b"OggS":
        return remembered(descriptor, _ogg)
    if missing := missing_bytes(descriptor, start):
        return _cut(missing)
    return remembered(descriptor, _mpeg) if looks_like_mpeg(start) else PLAIN


def _cut(missing: int) -> Layout:
    return Layout(refusal=(f"truncated: the header promises {missing} bytes more than the file has", AGAIN))


def _mpeg_in_wav(descriptor: int) -> Layout:
    """Frames of MPEG audio that are a WAV file's samples; libsndfile estimates how many there are."""
    part = samples(descriptor)
    assert part is not None
    size = os.fstat(descriptor).st_size
    stop = size if part.unstated else part.stop
    if stop > size:
        return _cut(stop - size)
    mpeg = read_mpeg(descriptor, start=part.start, stop=stop)
    return PLAIN if mpeg is None else _mpeg_layout(mpeg)


def hidden_mpeg(descriptor: int) -> Layout | None:
    """An MP3 that begins with something else, part of a frame perhaps, as recordings of radio streams do."""
    mpeg = read_mpeg(descriptor, junk=JUNK)
    return None if mpeg is None else _mpeg_layout(mpeg)


def _joined_chunks(descriptor: int) -> Layout:
    """WAV and its kin: each stated size, and what follows where it ends."""
    size = os.fstat(descriptor).st_size
    parts: list[Samples] = []
    base = 0
    while len(parts) < MOST_JOINED and (part := samples(descriptor, base)) is not None:
        parts.append(part)
        next_base = _next_container(descriptor, part, size)
        if next_base is None:
            break
        base = next_base
    if not parts:
        return PLAIN
    last = parts[-1]
    if len(parts) == 1 and last.codec in MPEG_TAGS:
        return remembered(descriptor, _mpeg_in_wav)
    missing = last.stop - size
    if len(parts) == 1 and not missing and not last.unstated:
        return PLAIN
    if not last.unstated and missing > 0 and missing >= max(1, last.block):
        return _cut(missing)
    streams = []
    for part, next_part in zip(parts, (*parts[1:], None), strict=True):
        end: int = size if next_part is None else next_part.base
        if next_part is not None and end <= part.start:
            continue  # a header that was written twice
        patches = sized(part, end) if part.unstated and _is_sound(descriptor, part, end) else {}
        plain = len(parts) == 1 and not patches
        streams.append(Stream(() if plain else patched(part.base, end, patches)))
    return Layout(tuple(streams))


def _is_sound(descriptor: int, part: Samples, end: int) -> bool:
    """Whether samples follow the head that states no size for them, not nothing or another chunk."""
    left = end - part.start
    if left <= 0:
        return False
    if part.magic not in (b"RIFF", b"RIFX"):
        return True
    name, length = struct.unpack("<4sI", os.pread(descriptor, 8, part.start).ljust(8, b"\0"))
    return not (all(0x20 <= letter < 0x7F for letter in name) and 8 + length <= left)


def _next_container(descriptor: int, part: Samples, size: int) -> int | None:
    """Where the next file begins that was joined to the one with these samples."""
    if part.stop >= size and not part.unstated:
        return None
    if part.unstated:
        offsets = {part.start, part.start + 4}  # a header that was written twice
    else:
        head = os.pread(descriptor, 24, part.base)
        form = {b"RIFF": "<I", b"RIFX": ">I", b"FORM": ">I"}.get(part.magic)
        end = part.base + 8 + struct.unpack(form, head[4:8])[0] if form else part.stop
        offsets = {end, end + end % 2, part.stop, part.stop + -part.stop % 2, part.stop + -part.stop % 8}
    for offset in sorted(offsets):
        if part.base < offset < size and is_container(os.pread(descriptor, 24, offset)):
            return offset
    return None


def _flac(descriptor: int) -> Layout:
    """A FLAC file and those that were joined to it, each from its marker on."""
    size = os.fstat(descriptor).st_size
    starts: list[int] = []
    offset = 0
    while block := os.pread(descriptor, BLOCK, offset):
        for head in FLAC_HEADS:
            at = block.find(head)
            while at >= 0 and len(starts) < MOST_JOINED:
                if _is_flac(os.pread(descriptor, FLAC_HEAD_BYTES, offset + at)):
                    starts.append(offset + at)
                at = block.find(head, at + 1)
        offset += max(1, len(block) - len(FLAC_HEADS[0]) + 1)
        if len(block) < BLOCK:
            break
    starts.sort()
    if len(starts) < 2:
        return PLAIN
    ends = [*starts[1:], size]
    return Layout(tuple(Stream(((start, end),)) for start, end in zip(starts, ends, strict=True)))


def _is_flac(head: bytes) -> bool:
    """Whether values follow the marker that a stream can have, as no other bytes do by chance."""
    if len(head) < FLAC_HEAD_BYTES:
        return False
    smallest, largest, _, _, rest = FLAC_FRAMES.unpack_from(head)
    return 16 <= smallest <= largest and bool(rest >> 44)


def _more_than_stated(descriptor: int, start: bytes) -> bool:
    """Whether a FLAC file is larger than its own head allows, metadata apart."""
    if len(start) < FLAC_HEAD_BYTES:
        return False
    block: int
    rest: int
    _, block, _, frame, rest = FLAC_FRAMES.unpack_from(start)
    largest = int.from_bytes(frame, "big")
    total = rest & (1 << 36) - 1
    if not (block and largest and total):
        return False
    surplus = os.fstat(descriptor).st_size - FLAC_HEAD_BYTES - -(-total // block) * largest
    return surplus > 0 and surplus > _flac_metadata(descriptor)


def _flac_metadata(descriptor: int) -> int:
    """Bytes of the blocks of metadata behind the first."""
    offset = FLAC_HEAD_BYTES
    for _ in range(128):
        head = os.pread(descriptor, 4, offset)
        if len(head) < 4 or head[0] == 0xFF:
            break
        offset += 4 + int.from_bytes(head[1:], "big")
        if head[0] & 0x80:
            break
    return offset - FLAC_HEAD_BYTES


def _ogg(descriptor: int) -> Layout:
    if ogg.is_cut(descriptor):
        return Layout(refusal=("truncated: the file ends before its stream does", AGAIN))
    links = ogg.links(descriptor)
    return PLAIN if len(links) == 1 else Layout(tuple(Stream((link,)) for link in links))


def _mpeg(descriptor: int) -> Layout:
    mpeg = read_mpeg(descriptor)
    if mpeg is not None:
        return _mpeg_layout(mpeg)
    return Layout(refusal=FREE_FORMAT) if is_free_format(descriptor) else _flac(descriptor)  # that may have tags, too


def _mpeg_layout(mpeg: Mpeg) -> Layout:
    if mpeg.cut:
        return Layout(refusal=("truncated: its last frame is not whole", AGAIN))
    damage = ""
    if short := next((stream for stream in mpeg.streams if stream.short), None):
        damage = f"its header promises {short.stated} frames, of which {short.frames} are there"
    if mpeg.plain:
        return Layout(damage=damage)
    return Layout(tuple(Stream(*stream.for_libsndfile()) for stream in mpeg.streams), damage=damage)
