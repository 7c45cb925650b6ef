"""Clips that lie inside other files, as segments of recordings or bytes in a table, written to files of their own."""

from dataclasses import dataclass
from pathlib import Path

import soundfile

from nota_cli.data.audio.clip import load_clip
from nota_cli.errors import DataError
from nota_cli.features.constants import SAMPLE_RATE
from nota_cli.files import atomic_path


@dataclass(frozen=True)
class Segment:
    """A part of a long recording, written as 16 kHz mono FLAC.

    Attributes:
        file: the recording.
        start, end: seconds in it.
    """

    file: Path
    start: float
    end: float


@dataclass(frozen=True)
class Embedded:
    """A recording whose bytes stand in a table, written as they are."""

    data: bytes


Clip = Segment | Embedded


def write_clip(clip: Clip, target: Path) -> bool:
    """Write a clip to a file, whole or not at all; one that is there is kept, so a run that was cut goes on.

    Returns:
        False where the recording that holds it is not there.

    Raises:
        AudioError: the recording cannot be read, or ends before the clip begins.
        DataError: a segment that ends before it begins.
    """
    if target.is_file():
        return True
    if isinstance(clip, Embedded):
        with atomic_path(target) as part:
            part.write_bytes(clip.data)
        return True
    if not clip.file.is_file():
        return False
    if clip.end <= clip.start:
        raise DataError(f"{target.stem}: its segment of {clip.file.name} ends at {clip.end} s, before it begins")
    longest = clip.end - clip.start + 1
    waveform = load_clip([clip.file], max_seconds=longest, min_seconds=0.0, start=clip.start, stop=clip.end, notes=[])
    with atomic_path(target) as part:
        soundfile.write(str(part), waveform, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return True
