"""Decodes recordings: the only place that reads a sound file, picks the channel, resamples, pads and cuts."""

import errno
import math
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from nota_cli.data.containers import readable, truncation
from nota_cli.errors import AudioError, DataError, printable

SAMPLE_RATE = 16_000  # Hz; what every encoder here was trained on
MAX_SECONDS = 30.0  # the longest clip an encoder sees; the rest is cut
MIN_SECONDS = 1.0  # shorter clips get zeros at the end
EXPANSION_GAP_SECONDS = 0.1  # silence between the files of one clip
RESAMPLER_MARGIN_SECONDS = 1.0  # read before and past a window, so that the resampler's edges lie beyond it

# libsndfile's count for "length not stated" is the largest 63-bit number; nothing real comes near this one.
UNSTATED_FRAMES = 1 << 60
BLOCK_SAMPLES = 1 << 23  # of all channels decoded at once (64 MB); more than 30 s of any usual file
RATES = range(1_000, 768_001)  # Hz that a header may state
LONGEST_SECONDS = 31 * 86_400.0  # that a header may state: a month
LOUDEST = 1e10  # past unscaled 32-bit integers; what lies beyond overflows in the spectrograms

AGAIN = "Copy or record it again."
AGAIN_OR_LESS = "Copy or record it again, or take its row out."
KNOWN_STARTS = {
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x1aE\xdf\xa3": "a Matroska or WebM video",
    b"<": "a web page or XML",
    b"version https://git-lfs": "a pointer of Git LFS, so run `git lfs pull`",
}
"""What is found under a sound's name, by its first bytes."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a sound file says of itself: rate in Hz, channels, samples of each (None where it does not say)."""

    path: Path
    rate: int
    channels: int
    frames: int | None


def load_audio(path: str | Path, *, row: int | str | None = None, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """Read one recording as the competition's organisers do.

    First channel; zeros appended to reach 1 s; soxr HQ to 16 kHz; cut at `max_seconds`.

    Args:
        path: a file that libsndfile reads (wav, flac, ogg, mp3, ...); its content decides, not its name.
        row: which row of the annotation names it, for messages.
        max_seconds: longest result; of a longer file only this much (and a little more) is read.

    Returns:
        float32 `[samples]` at 16 kHz, all finite.

    Raises:
        AudioError: missing, unreadable, empty, truncated or not audio, an absurd header, without samples, or with
            samples that are NaN, infinite or far too loud.
    """
    return load_clip([path], row=row, max_seconds=max_seconds)


def load_clip(
    paths: Sequence[str | Path],
    *,
    row: int | str | None = None,
    max_seconds: float = MAX_SECONDS,
    min_seconds: float = MIN_SECONDS,
    start: float = 0.0,
    stop: float | None = None,
) -> np.ndarray:
    """Read a clip of several files (`path`, then `expand_wav`), joined with 0.1 s of silence between them.

    They are joined at their own rate and then treated as one recording; files of unlike rates are brought to
    16 kHz first. Arguments, result and errors are those of `load_audio`; besides:

    Args:
        paths: the files, in order.
        row, max_seconds: as in `load_audio`.
        min_seconds: what zeros fill up to.
        start, stop: seconds of the joined clip between which to read; memory and time go with what lies between.
            From 0 on the result is, to the bit, that of reading everything and cutting; from elsewhere too at 16 kHz,
            and at other rates up to rounding. Lossy formats begin anew at `start`, so their first samples may differ.
    """
    if not paths:
        raise DataError(f"annotation row {row}: no audio file is named. Give it a `path`.")
    seconds = max_seconds if stop is None else min(stop - start, max_seconds)
    first = round(start * SAMPLE_RATE)
    last = first + round(seconds * SAMPLE_RATE)
    headers = [header(path, row=row) for path in paths]
    if all(each.rate == headers[0].rate for each in headers):
        waveform = _stretch(headers, first, last, min_seconds, row)
    else:
        waveform = _joined_after_resampling(headers, first, last, row)
    if start and not len(waveform):
        raise AudioError(_shown(headers[-1].path), f"ends before second {start:g} of its clip", AGAIN, row)
    missing = round(min_seconds * SAMPLE_RATE) - len(waveform)
    if missing > 0:
        waveform = np.pad(waveform, (0, missing))
    return np.ascontiguousarray(waveform, dtype=np.float32)


def duration(*paths: str | Path, row: int | str | None = None) -> float:
    """Seconds of a clip of these files with the silence between them, from their headers.

    A file whose header does not say how long it is is decoded and counted, in a bounded part of memory.

    Raises:
        AudioError: as `load_audio`, as far as headers tell.
    """
    headers = [header(path, row=row) for path in paths]
    return sum(_frames(each, row) / each.rate for each in headers) + EXPANSION_GAP_SECONDS * max(len(paths) - 1, 0)


def header(path: str | Path, *, row: int | str | None = None) -> Header:
    """What a file says of itself, if a sound file can say that.

    Raises:
        AudioError: as `load_audio`, as far as a header tells.
    """
    path = Path(path)
    with _opened(path, row) as sound:
        frames = sound.frames if sound.frames < UNSTATED_FRAMES else None
        rate, channels = sound.samplerate, sound.channels
    absurd = None
    if rate not in RATES:
        absurd = f"a sample rate of {rate} Hz"
    elif channels < 1:
        absurd = f"{channels} channels"
    elif frames is not None and not 0 <= frames <= LONGEST_SECONDS * rate:
        absurd = f"a length of {frames / rate / 3600:.0f} hours"
    if absurd:
        raise AudioError(_shown(path), f"its header states {absurd}, so it is damaged", AGAIN, row)
    if frames == 0:
        raise AudioError(_shown(path), "holds no samples", AGAIN if row is None else AGAIN_OR_LESS, row)
    return Header(path, rate, channels, frames)


class _Sound(soundfile.SoundFile):
    """A sound file that is read on and on where its length is not stated.

    soundfile seeks to where each read has ended, and libsndfile cannot seek to the end of such a FLAC file.
    """

    def seekable(self) -> bool:
        return super().seekable() and self.frames < UNSTATED_FRAMES


@contextmanager
def _opened(path: Path, row: int | str | None) -> Iterator[soundfile.SoundFile]:
    """An open sound file; what libsndfile or the disk refuses while it is open is told as an `AudioError`."""
    shown = _shown(path)
    descriptor = _descriptor(path, row)
    start = b""
    try:
        start = os.pread(descriptor, 64, 0)
        if not start:
            raise AudioError(shown, "the file is empty", AGAIN, row)
        if cut := truncation(descriptor):
            raise AudioError(shown, *cut, row)
        # By descriptor, not by name: libsndfile believes the endings of some names more than the content.
        with _Sound(readable(descriptor), closefd=False) as sound:
            yield sound
    except soundfile.SoundFileError as error:
        reason = _guess(start) or printable(getattr(error, "error_string", str(error)).strip().rstrip("."))
        remedy = "Convert it to wav or flac, or copy it again if it is damaged."
        raise AudioError(shown, f"not audio that can be decoded ({reason})", remedy, row) from error
    except OSError as error:
        raise AudioError(shown, *_refusal(error), row) from error
    finally:
        os.close(descriptor)


def _descriptor(path: Path, row: int | str | None) -> int:
    """The file opened by the system; pipes and devices are refused, for they would keep a reader waiting for ever."""
    shown = _shown(path)
    named = "the path" if row is None else "the path in the annotation"
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            return os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        remedy = f"Check {named}." if row is None else f"Check {named} and --audio-root."
        raise AudioError(shown, "no such file", remedy, row) from error
    except OSError as error:
        raise AudioError(shown, *_refusal(error), row) from error
    except ValueError as error:  # a NUL, or half a surrogate pair
        raise AudioError(shown, "no file can have this name", f"Correct {named}.", row) from error
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device, not a file"
    raise AudioError(shown, f"cannot be read: it is {kind}", f"Correct {named}.", row)


def _guess(start: bytes) -> str | None:
    """What a file that is no sound seems to be, by its first bytes."""
    if start[4:8] == b"ftyp":
        return "it is an MP4 or M4A"
    return next((f"it is {what}" for begin, what in KNOWN_STARTS.items() if start.lstrip().startswith(begin)), None)


def _refusal(error: OSError) -> tuple[str, str]:
    """The system's reason for not opening a file, and what to do about it."""
    remedies = {
        errno.EACCES: "Give yourself the permission to read it and to enter its folders.",
        errno.ELOOP: "Its symbolic links lead in a circle; make them anew.",
        errno.ENAMETOOLONG: "Correct the path.",
    }
    reason = f"cannot be read: {(error.strerror or str(error)).lower()}"
    return reason, remedies.get(error.errno or 0, "Check what it is and the disk it lies on.")


def _shown(path: Path) -> str:
    return printable(str(path))


def _joined_after_resampling(headers: list[Header], first: int, last: int, row: int | str | None) -> np.ndarray:
    """Samples `first` to `last` of files of unlike rates, each brought to 16 kHz by itself."""
    pieces: list[np.ndarray] = []
    gap = round(EXPANSION_GAP_SECONDS * SAMPLE_RATE)
    place = 0  # where the file begins in the clip
    for number, each in enumerate(headers):
        if number:
            pieces.append(np.zeros(max(0, min(place + gap, last) - max(place, first))))
            place += gap
        length = math.ceil(_frames(each, row) * SAMPLE_RATE / each.rate)
        low, high = max(first - place, 0), min(last - place, length)
        if low < high:
            pieces.append(_stretch([each], low, high, 0.0, row))
        place += length
    return np.concatenate(pieces)


def _stretch(headers: list[Header], first: int, last: int, min_seconds: float, row: int | str | None) -> np.ndarray:
    """Samples `first` to `last` at 16 kHz of files joined at the rate that they share; fewer where the clip ends."""
    rate = headers[0].rate
    # Both rates count whole samples together once in `ours`, `theirs` samples; only there may reading begin.
    common = math.gcd(rate, SAMPLE_RATE)
    ours, theirs = SAMPLE_RATE // common, rate // common
    margin = RESAMPLER_MARGIN_SECONDS if first else 0.0
    block = max(0, first - round(margin * SAMPLE_RATE)) // ours
    low = block * theirs
    high = math.ceil((last / SAMPLE_RATE + RESAMPLER_MARGIN_SECONDS) * rate)
    samples = _joined(headers, low, high, row)
    missing = round(min_seconds * rate) - low - len(samples)
    if missing > 0:
        samples = np.pad(samples, (0, missing))
    return _resample(samples, rate)[first - block * ours : last - block * ours]


def _joined(headers: list[Header], low: int, high: int, row: int | str | None) -> np.ndarray:
    """Samples `low` to `high` of files joined at the rate that they share; fewer where the clip ends."""
    if len(headers) == 1:
        return _decode(headers[0], low, high, row)
    pieces: list[np.ndarray] = []
    gap = round(EXPANSION_GAP_SECONDS * headers[0].rate)
    place = 0  # where the file begins in the clip
    for number, each in enumerate(headers):
        if number:
            pieces.append(np.zeros(max(0, min(place + gap, high) - max(place, low))))
            place += gap
        length = _frames(each, row)
        if place < high and low < place + length:
            pieces.append(_decode(each, max(low - place, 0), min(high - place, length), row))
        place += length
    return np.concatenate(pieces)


def _decode(header: Header, low: int, high: int, row: int | str | None) -> np.ndarray:
    """First channel of samples `low` to `high` of a file as float64; fewer where the file ends."""
    wanted = max(0, (high if header.frames is None else min(high, header.frames)) - low)
    samples = np.empty(wanted)
    filled = 0
    with _opened(header.path, row) as sound:
        if low and wanted:
            _skip(sound, low) if header.frames is None else sound.seek(low)
        for block in _blocks(sound, wanted):
            samples[filled : filled + len(block)] = block
            filled += len(block)
    samples = samples[:filled]
    shown = _shown(header.path)
    if header.frames is not None and len(samples) < wanted:
        reason = f"truncated: the header promises {header.frames} samples, only {low + len(samples)} can be read"
        raise AudioError(shown, reason, "Copy it again.", row)
    if not len(samples) and not low:
        raise AudioError(shown, "holds no samples", AGAIN if row is None else AGAIN_OR_LESS, row)
    if len(samples) and not (samples.min() > -LOUDEST and samples.max() < LOUDEST):  # false for NaN too
        reason = "holds samples that are NaN or infinite (or beyond 1e10)"
        raise AudioError(shown, reason, "Export it again as 16-bit wav or flac.", row)
    return samples


def _blocks(sound: soundfile.SoundFile, frames: int) -> Iterator[np.ndarray]:
    """The next `frames` samples of the first channel, so many at once that all channels stay in a bounded memory."""
    size = max(1, BLOCK_SAMPLES // sound.channels)
    while frames > 0:
        block = sound.read(frames=min(size, frames), dtype="float64", always_2d=True)
        if not len(block):
            return
        yield block[:, 0]
        frames -= len(block)


def _skip(sound: soundfile.SoundFile, frames: int) -> int:
    """Decode and drop up to `frames` samples; how many there were."""
    return sum(len(part) for part in _blocks(sound, frames))


def _frames(header: Header, row: int | str | None) -> int:
    """How many samples the file has, counted where its header does not say."""
    if header.frames is not None:
        return header.frames
    with _opened(header.path, row) as sound:
        return _skip(sound, UNSTATED_FRAMES)


def _resample(waveform: np.ndarray, rate: int) -> np.ndarray:
    """To 16 kHz with soxr HQ, ceil(n x 16000 / rate) samples: what librosa does by default."""
    if rate == SAMPLE_RATE or not len(waveform):
        return waveform
    length = math.ceil(len(waveform) * SAMPLE_RATE / rate)
    resampled = soxr.resample(waveform, rate, SAMPLE_RATE, quality="HQ")[:length]
    return np.pad(resampled, (0, length - len(resampled)))
