"""NIST SPHERE and Creative VOC files: the bytes that they state for their samples. libsndfile reads what there is."""

import os
import re
import struct

SPHERE, VOC = b"NIST_1A\n", b"Creative Voice File\x1a"
SPHERE_FIELD = re.compile(rb"^(sample_count|channel_count|sample_n_bytes) -i (\d{1,12})\s", re.MULTILINE)
MOST_HEADER = 1 << 16  # bytes of a SPHERE header; usual are 1,024
VOC_SAMPLES, VOC_NEW_SAMPLES, VOC_LAST_KIND = 1, 9, 9
MOST_BLOCKS = 10_000


def missing_bytes(descriptor: int, start: bytes) -> int:
    """Bytes that a file promises beyond its end; 0 for one that is whole, for less than a sample, for other formats.

    Args:
        descriptor: the file.
        start: its first 64 bytes.
    """
    stated = None
    if start.startswith(SPHERE):
        stated = _sphere(descriptor)
    elif start.startswith(VOC):
        stated = _voc(descriptor, start)
    if stated is None:
        return 0
    stop, sample_bytes = stated
    missing = stop - os.fstat(descriptor).st_size
    return missing if missing >= sample_bytes else 0


def _sphere(descriptor: int) -> tuple[int, int] | None:
    """Where the samples end, and the bytes of one of all channels; None where the header does not say."""
    line = os.pread(descriptor, 8, len(SPHERE)).strip()
    size = int(line) if line.isdigit() else 0
    head = os.pread(descriptor, min(size, MOST_HEADER), 0).partition(b"\nend_head")[0] + b"\n"
    fields = {name: int(value) for name, value in SPHERE_FIELD.findall(head)}
    if b"law" in head:
        fields.setdefault(b"sample_n_bytes", 1)
    if b"embedded-" in head or len(fields) < 3:
        return None  # of compressed samples the header does not state the bytes
    sample_bytes = fields[b"channel_count"] * fields[b"sample_n_bytes"]
    return size + fields[b"sample_count"] * sample_bytes, sample_bytes


def _voc(descriptor: int, start: bytes) -> tuple[int, int] | None:
    """Where the last block of samples ends that stands in the file, and the bytes of one of all channels."""
    (offset,) = struct.unpack_from("<H", start.ljust(64, b"\0"), len(VOC))
    last = None
    for _ in range(MOST_BLOCKS):
        head = os.pread(descriptor, 10, offset).ljust(10, b"\0")
        kind, length = head[0], int.from_bytes(head[1:4], "little")
        if not 0 < kind <= VOC_LAST_KIND or not length:
            break
        offset += 4 + length
        if kind <= 2 or kind == VOC_NEW_SAMPLES:
            last = offset, max(1, head[8] // 8 * head[9]) if kind == VOC_NEW_SAMPLES else 1
    return last
