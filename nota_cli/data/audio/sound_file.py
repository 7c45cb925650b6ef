"""One sound file: opened, its streams and their lengths, the first channel of a part of them decoded."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from nota_cli.data.audio import ffmpeg
from nota_cli.data.audio.containers import Layout, Stream, hidden_mpeg, layout
from nota_cli.data.audio.formats import foreign, is_own, no_sound
from nota_cli.data.audio.layout_cache import remembered
from nota_cli.data.audio.shards import open_member
from nota_cli.data.audio.views import View
from nota_cli.errors import AudioError, DataError, printable
from nota_cli.paths import tar_member

# libsndfile's count for "length not stated" is the largest 63-bit number; nothing real comes near this one.
UNSTATED_FRAMES = 1 << 60
BLOCK_SAMPLES = 1 << 23  # of all channels decoded at once (64 MB); more than 30 s of any usual file
RATES = range(1_000, 768_001)  # Hz that a header may state
LONGEST_SECONDS = 31 * 86_400.0  # that a header may state: a month
LOUDEST = 1e10  # past unscaled 32-bit integers; what lies beyond overflows in the spectrograms

AGAIN = "Copy or record it again."
AGAIN_OR_LESS = "Copy or record it again, or take its row out."
CONVERT = "Convert it to wav or flac, or copy it again if it is damaged."
INSTALL = "Install ffmpeg (`apt install ffmpeg`), with which nota reads it, or convert it to wav or flac."

_measure_all = partial(ffmpeg.measure, seconds=None)


@dataclass(slots=True)
class Sound:
    """One stream of a file: rate in Hz, channels, samples of each (None where nothing states them and none counted).

    Attributes:
        stream: what of the file libsndfile is to see; None where ffmpeg decodes it.
        seconds: length that is stated of a long file for which an exact one would mean decoding it.
        more: another stream may follow it; the file was not looked at to its end.
        damage: what is odd about the file and does not keep it from being read.
    """

    path: Path
    rate: int
    channels: int
    frames: int | None
    stream: Stream | None = Stream()
    seconds: float | None = None
    more: bool = False
    damage: str = ""


def sounds(path: str | Path, *, row: int | str | None = None, whole: bool = True) -> list[Sound]:
    """The streams of a file, in order: one, or as many as were chained or joined.

    Args:
        path: the file.
        row: which row of the annotation names it, for messages.
        whole: look for streams that follow wherever they may, else only where that costs next to nothing.

    Raises:
        AudioError: missing, unreadable, empty, truncated, not audio, an absurd header, without samples.
    """
    path = Path(path)
    with _descriptor(path, row) as (descriptor, start):
        plan = layout(descriptor, start, whole=whole)
        if plan.refusal:
            raise AudioError(_name(path), *plan.refusal, row)
        try:
            streams = [_examine(path, descriptor, stream, plan, row) for stream in plan.streams]
        except soundfile.SoundFileError as error:
            hidden = None if is_own(start) or foreign(start) or no_sound(start) else hidden_mpeg(descriptor)
            if hidden is None or hidden.refusal:
                return [_examine_foreign(path, descriptor, start, error, row)]
            streams = [_examine(path, descriptor, stream, hidden, row) for stream in hidden.streams]
    streams = [sound for sound in streams if sound.frames != 0]
    if not streams:
        raise AudioError(_name(path), "holds no samples", AGAIN if row is None else AGAIN_OR_LESS, row)
    return streams


def count(sound: Sound, row: int | str | None = None, *, exact: bool = True) -> int:
    """How many samples of each channel a stream has; decoded and counted where nothing states it.

    Args:
        sound: the stream.
        row: for messages.
        exact: else what a container states will do, where counting would mean to decode a long file.

    Raises:
        AudioError: the file is gone, or is damaged further inside.
    """
    if sound.frames is not None:
        return sound.frames
    if sound.stream is None:
        if not exact:
            return round(max(sound.seconds or 0.0, ffmpeg.COUNTED_SECONDS) * sound.rate)
        with _descriptor(sound.path, row) as (descriptor, start):
            return _measured(sound.path, descriptor, start, row, whole=True).frames or 0
    with _opened(sound, row) as file:
        return _skip(file, UNSTATED_FRAMES)


def decode(sound: Sound, low: int, high: int, row: int | str | None) -> np.ndarray[Any, Any]:
    """First channel of samples `low` to `high` of a stream, `[samples]` as float64; fewer where it ends.

    Raises:
        AudioError: the file is gone, ends before its header says, holds no samples, or holds NaN or infinite ones.
    """
    wanted = max(0, (high if sound.frames is None else min(high, sound.frames)) - low)
    blocks = _foreign_blocks(sound, low, wanted, row) if sound.stream is None else _own_blocks(sound, low, wanted, row)
    samples: np.ndarray[Any, Any] = np.empty(wanted)
    filled = 0
    for block in blocks:
        block = block[: wanted - filled]
        samples[filled : filled + len(block)] = block
        filled += len(block)
    samples = samples[:filled]
    file = _name(sound.path)
    if sound.frames is not None and len(samples) < wanted and sound.stream is not None:
        reason = f"truncated: the header promises {sound.frames} samples, only {low + len(samples)} can be read"
        raise AudioError(file, reason, "Copy it again.", row)
    if not len(samples) and not low:
        raise AudioError(file, "holds no samples", AGAIN if row is None else AGAIN_OR_LESS, row)
    if len(samples) and not (samples.min() > -LOUDEST and samples.max() < LOUDEST):  # false for NaN too
        reason = "holds samples that are NaN or infinite (or beyond 1e10)"
        raise AudioError(file, reason, "Export it again as 16-bit wav or flac.", row)
    return samples


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no annotations
    """A sound file that is read on and on where its length is not stated.

    soundfile seeks to where each read has ended, and libsndfile cannot seek to the end of such a FLAC file.
    """

    def seekable(self) -> bool:
        return bool(super().seekable()) and self.frames < UNSTATED_FRAMES


def _examine(path: Path, descriptor: int, stream: Stream, plan: Layout, row: int | str | None) -> Sound:
    """Rate, channels and length of a stream that libsndfile reads."""
    with _SoundFile(_view(descriptor, stream), closefd=False) as file:
        frames = file.frames if stream.frames is None else stream.frames
        rate, channels = file.samplerate, file.channels
    _check_header(path, rate, channels, frames if frames < UNSTATED_FRAMES else 0, row)
    known = frames if frames < UNSTATED_FRAMES else None
    return Sound(path, rate, channels, known, stream, more=not plan.whole, damage=plan.damage)


def _check_header(path: Path, rate: int, channels: int, frames: int, row: int | str | None) -> None:
    absurd = None
    if rate not in RATES:
        absurd = f"a sample rate of {rate} Hz"
    elif channels < 1:
        absurd = f"{channels} channels"
    elif not 0 <= frames <= LONGEST_SECONDS * rate:
        absurd = f"a length of {frames / rate / 3600:.0f} hours"
    if absurd:
        raise AudioError(_name(path), f"its header states {absurd}, so it is damaged", AGAIN, row)


def _examine_foreign(
    path: Path, descriptor: int, start: bytes, error: soundfile.SoundFileError, row: int | str | None
) -> Sound:
    """Rate and length of what libsndfile does not read and ffmpeg may."""
    reason = printable(getattr(error, "error_string", str(error)).strip().rstrip("."))
    named = foreign(start)
    if named is None and (other := no_sound(start)):
        raise AudioError(_name(path), f"not audio that can be decoded (it is {other})", CONVERT, row) from error
    if is_own(start):
        raise AudioError(_name(path), f"not audio that can be decoded ({reason})", CONVERT, row) from error
    if not ffmpeg.available():
        if named is None:
            raise AudioError(_name(path), f"not audio that can be decoded ({reason})", CONVERT, row) from error
        reason = f"not audio that can be decoded without ffmpeg (it is {named})"
        raise AudioError(_name(path), reason, INSTALL, row) from error
    measure = _measured(path, descriptor, start, row)
    _check_header(path, measure.rate, 1, measure.frames or 0, row)
    return Sound(path, measure.rate, 1, measure.frames, None, seconds=measure.seconds, damage=measure.problem)


def _measured(
    path: Path, descriptor: int, start: bytes, row: int | str | None, *, whole: bool = False
) -> ffmpeg.Measure:
    measure = remembered(descriptor, _measure_all if whole else ffmpeg.measure)
    if isinstance(measure, ffmpeg.FfmpegError):
        raise AudioError(_name(path), _no_ffmpeg(start, measure), CONVERT, row)
    if measure.cut:
        raise AudioError(_name(path), f"truncated ({printable(measure.cut)})", "Copy it again.", row)
    return measure


def _no_ffmpeg(start: bytes, error: ffmpeg.FfmpegError) -> str:
    named = foreign(start)
    what = "" if named is None else f"it is {named}; "
    return f"not audio that can be decoded ({what}ffmpeg: {printable(str(error))})"


def _foreign_blocks(sound: Sound, low: int, wanted: int, row: int | str | None) -> Iterator[np.ndarray[Any, Any]]:
    if not wanted:
        return
    with _descriptor(sound.path, row) as (descriptor, start):
        try:
            # A second more than is wanted, for a file's own clock need not count its samples exactly. For that reason
            # what lies near the start is decoded and dropped, too: seeking may be a frame or two off.
            first = low / sound.rate if low > ffmpeg.COUNTED_SECONDS * sound.rate else 0.0
            drop = 0 if first else low
            seconds = (drop + wanted) / sound.rate + 1.0
            with ffmpeg.decoding(descriptor, start=first, seconds=seconds) as stream:
                for block in stream.blocks:
                    yield block[drop:]
                    drop = max(0, drop - len(block))
                cut = stream.cut
        except ffmpeg.FfmpegError as error:
            if low and "no sound" in str(error):
                return  # it ends before
            raise AudioError(_name(sound.path), _no_ffmpeg(start, error), CONVERT, row) from error
    if cut:
        raise AudioError(_name(sound.path), f"truncated ({printable(cut)})", "Copy it again.", row)


def _own_blocks(sound: Sound, low: int, wanted: int, row: int | str | None) -> Iterator[np.ndarray[Any, Any]]:
    with _opened(sound, row) as file:
        if low and wanted:
            _skip(file, low) if file.frames >= UNSTATED_FRAMES else file.seek(low)
        yield from _blocks(file, wanted)


@contextmanager
def _opened(sound: Sound, row: int | str | None) -> Iterator[soundfile.SoundFile]:
    """A stream opened by libsndfile; what it or the disk refuses while it is open is told as an `AudioError`."""
    assert sound.stream is not None
    with _descriptor(sound.path, row) as (descriptor, start):
        view = _view(descriptor, sound.stream)
        try:
            with _SoundFile(view, closefd=False) as file:
                yield file
        except soundfile.SoundFileError as error:
            reason = printable(getattr(error, "error_string", str(error)).strip().rstrip("."))
            reason = f"not audio that can be decoded ({reason})"
            raise AudioError(_name(sound.path), reason, CONVERT, row) from error
        if isinstance(view, View) and view.error is not None:
            raise view.error


def _view(descriptor: int, stream: Stream) -> int | View:
    """What libsndfile reads: the file by its descriptor (it believes the endings of some names), or parts of it."""
    return View(descriptor, stream.pieces, stream.size) if stream.pieces else descriptor


@contextmanager
def _descriptor(path: Path, row: int | str | None) -> Iterator[tuple[int, bytes]]:
    """The file opened by the system and its first 64 bytes; what the disk refuses meanwhile becomes an `AudioError`."""
    descriptor = _open(path, row)
    try:
        start = os.pread(descriptor, 64, 0)
        if not start:
            raise AudioError(_name(path), "the file is empty", AGAIN, row)
        yield descriptor, start
    except OSError as error:
        raise AudioError(_name(path), *_refusal(error), row) from error
    finally:
        os.close(descriptor)


def _open(path: Path, row: int | str | None) -> int:
    """Pipes and devices are refused, for they would keep a reader waiting for ever."""
    file = _name(path)
    named = "the path" if row is None else "the path in the annotation"
    member = tar_member(path)
    try:
        if member is not None:
            return open_member(*member)
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            return os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        remedy = f"Check {named}." if row is None else f"Check {named} and --audio-root."
        raise AudioError(file, "no such file", remedy, row) from error
    except OSError as error:
        raise AudioError(file, *_refusal(error), row) from error
    except DataError as error:
        raise AudioError(file, f"cannot be read: {error}", "Correct the shard.", row) from error
    except ValueError as error:  # a NUL, or half a surrogate pair
        raise AudioError(file, "no file can have this name", f"Correct {named}.", row) from error
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device, not a file"
    raise AudioError(file, f"cannot be read: it is {kind}", f"Correct {named}.", row)


def _refusal(error: OSError) -> tuple[str, str]:
    """The system's reason for not opening a file, and what to do about it."""
    remedies = {
        errno.EACCES: "Give yourself the permission to read it and to enter its folders.",
        errno.ELOOP: "Its symbolic links lead in a circle; make them anew.",
        errno.ENAMETOOLONG: "Correct the path.",
    }
    reason = f"cannot be read: {(error.strerror or str(error)).lower()}"
    return reason, remedies.get(error.errno or 0, "Check what it is and the disk it lies on.")


def _name(path: Path) -> str:
    return printable(str(path))


def _blocks(file: soundfile.SoundFile, frames: int) -> Iterator[np.ndarray[Any, Any]]:
    """The next `frames` samples of the first channel, so many at once that all channels stay in a bounded memory."""
    size = max(1, BLOCK_SAMPLES // file.channels)
    while frames > 0:
        block = file.read(frames=min(size, frames), dtype="float64", always_2d=True)
        if not len(block):
            return
        yield block[:, 0]
        frames -= len(block)


def _skip(file: soundfile.SoundFile, frames: int) -> int:
    """Decode and drop up to `frames` samples; how many there were."""
    return sum(len(part) for part in _blocks(file, frames))
