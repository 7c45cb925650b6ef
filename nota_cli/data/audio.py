"""Decodes recordings: the only place that reads a sound file, picks the channel, resamples, pads and cuts."""

import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from nota_cli.errors import DataError

SAMPLE_RATE = 16_000  # Hz; what every encoder here was trained on
MAX_SECONDS = 30.0  # the longest clip an encoder sees; the rest is cut
MIN_SECONDS = 1.0  # shorter clips get zeros at the end
EXPANSION_GAP_SECONDS = 0.1  # silence between the files of one clip
RESAMPLER_MARGIN_SECONDS = 1.0  # read past the cut, so that the resampler's edge lies beyond it

# Programs that write to a pipe cannot know the length and state 0 or a huge one: espeak-ng 0x7ffff000, ffmpeg 2^32 - 1.
STREAMED_SIZE = 0x7FFF_F000
# libsndfile's count for "length not stated" is the largest 63-bit number; nothing real comes near this one.
UNSTATED_FRAMES = 1 << 60


def load_audio(path: str | Path, *, row: int | str | None = None, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """Read one recording as the competition's organisers do.

    First channel; zeros appended to reach 1 s; soxr HQ to 16 kHz; cut at `max_seconds`.

    Args:
        path: a file that libsndfile reads (wav, flac, ogg, mp3, ...).
        row: which row of the annotation names it, for messages.
        max_seconds: longest result; of a longer file only this much (and a little more) is read.

    Returns:
        float32 `[samples]` at 16 kHz, all finite.

    Raises:
        DataError: missing, unreadable, empty, truncated or not audio, without samples, or with NaN or infinite ones.
    """
    return load_clip([path], row=row, max_seconds=max_seconds)


def load_clip(
    paths: Sequence[str | Path],
    *,
    row: int | str | None = None,
    max_seconds: float = MAX_SECONDS,
    min_seconds: float = MIN_SECONDS,
) -> np.ndarray:
    """Read a clip of several files (`path`, then `expand_wav`), joined with 0.1 s of silence between them.

    They are joined at their own rate and then treated as one recording; files of unlike rates are brought to
    16 kHz first. Arguments, result and errors are those of `load_audio`; `min_seconds` is what zeros fill up to.
    """
    if not paths:
        raise DataError(f"annotation row {row}: no audio file is named. Give it a `path`.")
    decoded = [_decode(Path(path), row, max_seconds) for path in paths]
    parts = [part for part, _ in decoded]
    rate = decoded[0][1]
    if any(other != rate for _, other in decoded):
        parts = [_resample(part, other) for part, other in decoded]
        rate = SAMPLE_RATE

    waveform = parts[0]
    gap = np.zeros(round(EXPANSION_GAP_SECONDS * rate), dtype=waveform.dtype)
    for part in parts[1:]:
        waveform = np.concatenate([waveform, gap, part])

    missing = round(min_seconds * rate) - len(waveform)
    if missing > 0:
        waveform = np.pad(waveform, (0, missing))
    waveform = _resample(waveform, rate)[: round(max_seconds * SAMPLE_RATE)]
    return np.ascontiguousarray(waveform, dtype=np.float32)


def _decode(path: Path, row: int | str | None, max_seconds: float) -> tuple[np.ndarray, int]:
    """First channel of a file as float64 and the file's own rate; reads no more than `max_seconds` and a margin."""
    where = f"{path}" if row is None else f"{path} (annotation row {row})"
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise DataError(f"{where}: the file is empty. Copy or record it again.")
            missing_bytes = _missing_wav_bytes(file)
    except FileNotFoundError as error:
        raise DataError(f"{where}: no such file. Check the path in the annotation and --audio-root.") from error
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror}. Check what it is and its permissions.") from error
    if missing_bytes:
        raise DataError(
            f"{where}: truncated: the header promises {missing_bytes} bytes more than the file has. Copy it again."
        )

    try:
        with soundfile.SoundFile(path) as sound:
            rate = sound.samplerate
            wanted = math.ceil((max_seconds + RESAMPLER_MARGIN_SECONDS) * rate)
            stated = sound.frames
            samples = sound.read(frames=wanted, dtype="float64", always_2d=True)[:, 0]
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a headerless .raw, whose rate nobody knows
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        raise DataError(
            f"{where}: not audio that can be decoded ({reason}). "
            "Convert it to wav or flac, or copy it again if it is damaged."
        ) from error

    if not len(samples):
        raise DataError(f"{where}: holds no samples. Copy or record it again, or take its row out.")
    if stated < UNSTATED_FRAMES and len(samples) < min(wanted, stated):
        raise DataError(
            f"{where}: truncated: the header promises {stated} samples, only {len(samples)} can be read. Copy it again."
        )
    if not np.isfinite(samples).all():
        raise DataError(f"{where}: holds samples that are NaN or infinite. Export it again as 16-bit wav or flac.")
    return samples, rate


def _missing_wav_bytes(file: BinaryIO) -> int:
    """How many bytes the `data` chunk of a RIFF WAVE file promises beyond the file's end (0 for anything else).

    libsndfile shortens such a file without a word, so it is checked here.
    """
    end = file.seek(0, 2)
    file.seek(0)
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return 0
    while len(chunk := file.read(8)) == 8:
        name, size = chunk[:4], struct.unpack("<I", chunk[4:])[0]
        if name == b"data":
            return 0 if size >= STREAMED_SIZE else max(0, file.tell() + size - end)
        file.seek(size + size % 2, 1)  # chunks start at even places
    return 0


def _resample(waveform: np.ndarray, rate: int) -> np.ndarray:
    """To 16 kHz with soxr HQ, ceil(n x 16000 / rate) samples: what librosa does by default."""
    if rate == SAMPLE_RATE:
        return waveform
    length = math.ceil(len(waveform) * SAMPLE_RATE / rate)
    resampled = soxr.resample(waveform, rate, SAMPLE_RATE, quality="HQ")[:length]
    return np.pad(resampled, (0, length - len(resampled)))
