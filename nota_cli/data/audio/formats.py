"""What a file is that libsndfile does not read, by its first bytes."""

import codecs
import struct

NO_SOUND = {
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"<": "a web page or XML",
    b"version https://git-lfs": "a pointer of Git LFS, so run `git lfs pull`",
    b"#EXTM3U": "a playlist",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}
"""What is found under a sound's name and holds none."""

FOREIGN = (
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (8, b"3gp", "a 3GP video"),
    (8, b"3g2", "a 3GP video"),
    (8, b"qt  ", "a QuickTime video"),
    (4, b"ftyp", "an MP4 or M4A"),
    (4, b"moov", "an MP4 or QuickTime video"),
    (4, b"mdat", "an MP4 or QuickTime video"),
    (4, b"wide", "an MP4 or QuickTime video"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "ASF, which is WMA or WMV"),
    (0, b"#!AMR", "AMR"),
    (0, b"ADIF", "AAC (ADIF)"),
    (0, b"FLV\x01", "a Flash video"),
    (0, b".RMF", "RealMedia"),
    (0, b".ra\xfd", "RealAudio"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"TTA1", "True Audio"),
    (0, b"TTA2", "True Audio"),
    (0, b"MPCK", "Musepack"),
    (0, b"MP+", "Musepack"),
    (0, b"tBaK", "TAK"),
    (0, b"DSD ", "DSF"),
    (0, b"FRM8", "DSDIFF"),
    (0, b"OMA", "Sony OpenMG"),
    (0, b"ea3", "Sony OpenMG"),
    (0, b"\x0b\x77", "AC-3"),
    (0, b"\x7f\xfe\x80\x01", "DTS"),
    (4, b"\xf8\x72\x6f", "TrueHD or MLP"),
    (0, b"\x00\x00\x01\xba", "an MPEG video"),
    (8, b"AVI ", "an AVI video"),
    (28, b"Speex   ", "Ogg Speex"),
    (28, b"\x80theora", "an Ogg video"),
    (28, b"fishead\0", "an Ogg file with a Skeleton track"),
)
"""Containers and streams of sound that libsndfile does not read: where to look, what stands there, what it is."""

WAV_CODECS = {
    0x22: "TrueSpeech",
    0x50: "MP2",
    0x55: "MP3",
    0x64: "G.726",
    0x85: "Voxware",
    0xFF: "AAC",
    0x160: "WMA",
    0x161: "WMA",
    0x162: "WMA",
    0x163: "WMA",
    0x1600: "AAC",
    0x1602: "AAC",
    0x1610: "AAC",
    0x2000: "AC-3",
    0x2001: "DTS",
    0x566F: "Vorbis",
    0xA106: "AAC",
    0xA109: "Speex",
    0xF1AC: "FLAC",
}
"""What a WAV file may hold that libsndfile does not decode, by format tag."""

OWN = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"fLaC", b"OggS", b"FORM", b"caff", b"riff", b".snd", b"NIST")
"""Containers that libsndfile reads: what it refuses there is damaged."""


def no_sound(start: bytes) -> str | None:
    """What a file seems to be that holds no sound; None if it may hold some."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")  # a mark of UTF-8, blanks
    named = next((what for begin, what in NO_SOUND.items() if text.startswith(begin)), None)
    return named or ("text" if _is_text(start) else None)


def foreign(start: bytes) -> str | None:
    """Which format that libsndfile does not read a file seems to have; None if none is known.

    Args:
        start: the first 64 bytes.
    """
    named = next((what for offset, sign, what in FOREIGN if start[offset : offset + len(sign)] == sign), None)
    if named:
        return named
    if start[:1] == b"\xff" and len(start) > 1 and start[1] & 0xF6 == 0xF0:
        return "AAC (ADTS)"
    if start[:1] == b"\x56" and len(start) > 1 and start[1] & 0xE0 == 0xE0:
        return "AAC (LATM)"
    if start[:1] == b"G" and start[4:5] == b"G":
        return "an MPEG transport stream"
    if start[:4] == b"RIFF" and start[12:16] == b"fmt " and len(start) >= 22:
        codec = WAV_CODECS.get(struct.unpack_from("<H", start, 20)[0])
        return f"a WAV that holds {codec}" if codec else None
    return None


def is_own(start: bytes) -> bool:
    """Whether the container is one that libsndfile reads, and it should have read this one."""
    return start.startswith(OWN) and foreign(start) is None


def _is_text(start: bytes) -> bool:
    """Whether bytes read as text; playlists and scripts do, which may name other files, and no sound does."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)  # the last character may be there in part
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text)
