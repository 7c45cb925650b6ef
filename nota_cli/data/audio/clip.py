"""Decodes recordings: the only place that joins files to a clip, resamples, pads and cuts."""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import soxr

from nota_cli.data.audio.sound_file import AGAIN, Sound, count, decode, sounds
from nota_cli.errors import AudioError, AudioWarning, DataError, printable
from nota_cli.features.constants import SAMPLE_RATE

MAX_SECONDS = 30.0  # the longest clip an encoder sees; the rest is cut
MIN_SECONDS = 1.0  # shorter clips get zeros at the end
EXPANSION_GAP_SECONDS = 0.1  # silence between the files of one clip
RESAMPLER_MARGIN_SECONDS = 1.0  # read before and past a window, so that the resampler's edges lie beyond it
SILENT = 2 / 2**15  # between the lowest sample and the highest of a clip without sound: dither of 16 bits
LOUD = 10.0  # 20 dB above full scale, where no mixing gets and unscaled integers begin

NoteKind = Literal["silent", "loud", "damaged"]
NOTE_KINDS: tuple[NoteKind, ...] = get_args(NoteKind)


@dataclass(frozen=True, slots=True)
class AudioNote:
    """What is odd about a clip that can be heard, or seems to be; the text, which names it, is a sentence.

    Attributes:
        kind: `silent`: there is no sound in what is heard; `loud`: samples lie far beyond 1; `damaged`: a file of it
            is not what its header states, or its decoder complained.
    """

    kind: NoteKind
    text: str


def load_audio(
    path: str | Path, *, row: int | str | None = None, max_seconds: float = MAX_SECONDS
) -> np.ndarray[Any, Any]:
    """Read one recording as the competition's organisers do.

    First channel; zeros appended to reach 1 s; soxr HQ to 16 kHz; cut at `max_seconds`.

    Args:
        path: a file that libsndfile reads (wav, flac, ogg, mp3, ...), or ffmpeg where it is installed (m4a, aac,
            wma, webm, amr, ...); its content decides, not its name. Of streams that are chained or joined in one file
            all are heard, one behind the other.
        row: which row of the annotation names it, for messages.
        max_seconds: longest result; of a longer file only this much (and a little more) is read.

    Returns:
        float32 `[samples]` at 16 kHz, all finite.

    Raises:
        AudioError: missing, unreadable, empty, truncated or not audio, an absurd header, without samples, or with
            samples that are NaN, infinite or far too loud.

    Warns:
        AudioWarning: there is no sound in it, samples lie far beyond 1, or the file is damaged and can be read.
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
    notes: list[AudioNote] | None = None,
) -> np.ndarray[Any, Any]:
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
        notes: where to put what is odd about the clip; if not given, an `AudioWarning` is issued for each.

    Returns:
        float32 `[samples]` at 16 kHz.

    Raises:
        AudioError: as `load_audio`; or the clip ends before `start`.
        DataError: no file is named.
    """
    if not paths:
        raise DataError(f"annotation row {row}: no audio file is named. Give it a `path`.")
    seconds = max_seconds if stop is None else min(stop - start, max_seconds)
    first = round(start * SAMPLE_RATE)
    last = first + round(seconds * SAMPLE_RATE)
    levels: list[float] = []
    parts = _parts(paths, seconds if stop is None else stop, row)
    if all(each.sound.rate == parts[0].sound.rate for each in parts):
        waveform = _stretch(parts, first, last, min_seconds, row, levels)
    else:
        waveform = _joined_after_resampling(parts, first, last, row, levels)
    if start and not len(waveform):
        raise AudioError(printable(str(parts[-1].sound.path)), f"ends before second {start:g} of its clip", AGAIN, row)
    _note(parts, levels, row, notes)
    missing = round(min_seconds * SAMPLE_RATE) - len(waveform)
    if missing > 0:
        waveform = np.pad(waveform, (0, missing))
    return np.ascontiguousarray(waveform, dtype=np.float32)


def duration(*paths: str | Path, row: int | str | None = None, exact: bool = True) -> float:
    """Seconds of a clip of these files with the silence between them, from their headers.

    A file whose header does not say how long it is, or only guesses, is counted, in a bounded part of memory.

    Args:
        paths: the files, in order.
        row: which row of the annotation names them, for messages.
        exact: else what a container states will do for long files that ffmpeg has to decode to count them.

    Raises:
        AudioError: as `load_audio`, as far as headers tell.
    """
    clips = [sounds(path, row=row) for path in paths]
    seconds = sum(count(sound, row, exact=exact) / sound.rate for streams in clips for sound in streams)
    return seconds + EXPANSION_GAP_SECONDS * max(len(paths) - 1, 0)


def stated_duration(path: str | Path, *, row: int | str | None = None, whole: bool = False) -> float | None:
    """Seconds of a file as far as its header tells; None where it would have to be decoded to know.

    Args:
        path: the file.
        row: which row of the annotation names it, for messages.
        whole: look for other FLAC files that were joined to one, however long it is.

    Raises:
        AudioError: as `load_audio`, as far as a header tells.
    """
    streams = sounds(path, row=row, whole=whole)
    seconds = 0.0
    for sound in streams:
        if sound.frames is None:
            return None
        seconds += sound.frames / sound.rate
    return seconds


@dataclass(frozen=True, slots=True)
class _Part:
    """A stream of a clip, and the seconds of silence before it: none between the streams of one file."""

    sound: Sound
    gap: float


def _parts(paths: Sequence[str | Path], seconds: float, row: int | str | None) -> list[_Part]:
    """The streams of all files; where `seconds` go beyond what a header states, the whole file is looked at."""
    parts: list[_Part] = []
    length = 0.0
    for number, path in enumerate(paths):
        streams = sounds(path, row=row, whole=False)
        stated = sum(sound.frames / sound.rate if sound.frames else 0.0 for sound in streams)
        if streams[-1].more and (len(paths) > 1 or length + stated < seconds + RESAMPLER_MARGIN_SECONDS):
            streams = sounds(path, row=row)
        length += stated
        parts += [_Part(sound, EXPANSION_GAP_SECONDS if number and not i else 0.0) for i, sound in enumerate(streams)]
    return parts


def _note(parts: list[_Part], levels: list[float], row: int | str | None, notes: list[AudioNote] | None) -> None:
    """Tell what is odd about a clip.

    Args:
        parts: its streams.
        levels: the lowest and the highest sample that is heard of each piece of it.
        row: which row of the annotation names it.
        notes: where to put it; None to warn.
    """
    file = printable(str(parts[0].sound.path))
    where = file if row is None else f"{file} (annotation row {row})"
    odd: list[AudioNote] = []
    low, high = min(levels, default=0.0), max(levels, default=0.0)
    if high - low <= SILENT:
        channel = "the first channel, which is the one that is heard," if parts[0].sound.channels > 1 else "it"
        odd.append(AudioNote("silent", f"{where}: {channel} is silent. Check what was recorded."))
    elif max(high, -low) > LOUD:
        text = f"{where}: samples go up to {max(high, -low):.0f} where 1 is full scale. Scale them to between -1 and 1."
        odd.append(AudioNote("loud", text))
    damage = {printable(str(part.sound.path)): part.sound.damage for part in parts if part.sound.damage}
    odd += [AudioNote("damaged", f"{path}: {printable(text)}. {AGAIN}") for path, text in damage.items()]
    if notes is not None:
        notes += odd
        return
    warn_of(odd)


def warn_of(notes: Iterable[AudioNote]) -> None:
    """Issue an `AudioWarning` for each."""
    for note in notes:
        warnings.warn(note.text, AudioWarning, stacklevel=4)


def _joined_after_resampling(
    parts: list[_Part], first: int, last: int, row: int | str | None, levels: list[float]
) -> np.ndarray[Any, Any]:
    """Samples `first` to `last` of files of unlike rates, each brought to 16 kHz by itself."""
    pieces: list[np.ndarray[Any, Any]] = []
    begin = 0  # where the stream begins in the clip
    for each in parts:
        gap = round(each.gap * SAMPLE_RATE)
        pieces.append(np.zeros(max(0, min(begin + gap, last) - max(begin, first))))
        begin += gap
        if begin >= last:
            break
        length = math.ceil(count(each.sound, row) * SAMPLE_RATE / each.sound.rate)
        low, high = max(first - begin, 0), min(last - begin, length)
        if low < high:
            pieces.append(_stretch([_Part(each.sound, 0.0)], low, high, 0.0, row, levels))
        begin += length
    return np.concatenate(pieces)


def _stretch(
    parts: list[_Part], first: int, last: int, min_seconds: float, row: int | str | None, levels: list[float]
) -> np.ndarray[Any, Any]:
    """Samples `first` to `last` at 16 kHz of files joined at the rate that they share; fewer where the clip ends.

    The lowest and the highest of them, before resampling, which overshoots, are appended to `levels`.
    """
    rate = parts[0].sound.rate
    # Both rates count whole samples together once in `ours`, `theirs` samples; only there may reading begin.
    common = math.gcd(rate, SAMPLE_RATE)
    ours, theirs = SAMPLE_RATE // common, rate // common
    margin = RESAMPLER_MARGIN_SECONDS if first else 0.0
    block = max(0, first - round(margin * SAMPLE_RATE)) // ours
    low = block * theirs
    high = math.ceil((last / SAMPLE_RATE + RESAMPLER_MARGIN_SECONDS) * rate)
    samples = _joined(parts, low, high, row)
    kept = samples[first * rate // SAMPLE_RATE - low : math.ceil(last * rate / SAMPLE_RATE) - low]
    if len(kept):
        levels += [float(kept.min()), float(kept.max())]
    missing = round(min_seconds * rate) - low - len(samples)
    if missing > 0:
        samples = np.pad(samples, (0, missing))
    return _resample(samples, rate)[first - block * ours : last - block * ours]


def _joined(parts: list[_Part], low: int, high: int, row: int | str | None) -> np.ndarray[Any, Any]:
    """Samples `low` to `high` of files joined at the rate that they share; fewer where the clip ends."""
    if len(parts) == 1:
        return decode(parts[0].sound, low, high, row)
    pieces: list[np.ndarray[Any, Any]] = []
    begin = 0  # where the stream begins in the clip
    for each in parts:
        gap = round(each.gap * each.sound.rate)
        pieces.append(np.zeros(max(0, min(begin + gap, high) - max(begin, low))))
        begin += gap
        if begin >= high:
            break
        length = count(each.sound, row)
        if low < begin + length:
            pieces.append(decode(each.sound, max(low - begin, 0), min(high - begin, length), row))
        begin += length
    return np.concatenate(pieces)


def _resample(waveform: np.ndarray[Any, Any], rate: int) -> np.ndarray[Any, Any]:
    """To 16 kHz with soxr HQ, ceil(n x 16000 / rate) samples: what librosa does by default."""
    if rate == SAMPLE_RATE or not len(waveform):
        return waveform
    length = math.ceil(len(waveform) * SAMPLE_RATE / rate)
    resampled = soxr.resample(waveform, rate, SAMPLE_RATE, quality="HQ")[:length]
    return np.pad(resampled, (0, length - len(resampled)))
