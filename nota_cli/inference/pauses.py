"""Where a recording has sound, and how it is divided at its pauses into what a model hears at once."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from nota_cli.inference.long_audio import windows

Span = tuple[float, float]

HOP_SECONDS = 0.02
QUIETEST = -90.0  # dB; digital silence counts as that
RANGE = 40.0  # dB below the loudest sound that still count as sound
ABOVE_NOISE = 10.0  # dB above a background of which nothing is known
ABOVE_STEADY_NOISE = 3.0  # dB at least above a steady one, whose hops differ by tenths
STEADY_SHARE = 0.2  # of a recording's hops that lie close together where its background is steady
STEADY_RANGE = 3.0  # dB within which they do
PAUSE_SECONDS = 0.9  # without sound, that end a segment
SHORT_PAUSE_SECONDS = 0.2  # at which a segment is divided that is longer than the model hears at once
LEAST_SECONDS = 0.06  # of sound; what is shorter is a click
EDGE_SECONDS = 0.1  # that a segment begins before its sound, and ends after it
CONTEXT_SECONDS = 0.2  # that the model hears before the sound and after it


def levels(waveforms: Iterable[NDArray[np.float32]], rate: int) -> NDArray[np.float64]:
    """Loudness `[hops]` in dB of full scale, of a recording that comes in pieces of whole hops."""
    size = round(HOP_SECONDS * rate)
    pieces = []
    for waveform in waveforms:
        whole = np.pad(waveform, (0, -len(waveform) % size)).astype(np.float64).reshape(-1, size)
        pieces.append(10 * np.log10(np.maximum((whole**2).mean(axis=1), 10 ** (QUIETEST / 10))))
    return np.concatenate(pieces) if pieces else np.zeros(0)


def sounds(loudness: NDArray[np.float64], pause: float = PAUSE_SECONDS) -> list[Span]:
    """Stretches of sound in seconds, `pause` seconds without sound or more between them.

    A recording that is about as loud everywhere is one stretch, and one without any sound has none.
    """
    if not len(loudness) or loudness.max() <= QUIETEST + ABOVE_NOISE:
        return []
    peak = float(np.percentile(loudness, 99))
    noise, above = background(loudness, peak)
    threshold = max(noise + above, peak - RANGE)
    if peak - noise < 2 * ABOVE_NOISE:
        return [(0.0, len(loudness) * HOP_SECONDS)]
    loud = np.flatnonzero(loudness > threshold)
    if not len(loud):
        return []
    last = np.flatnonzero(np.diff(loud) * HOP_SECONDS > pause)
    starts, stops = loud[np.r_[0, last + 1]], loud[np.r_[last, len(loud) - 1]] + 1
    spans = [(float(start) * HOP_SECONDS, float(stop) * HOP_SECONDS) for start, stop in zip(starts, stops, strict=True)]
    return [span for span in spans if span[1] - span[0] >= LEAST_SECONDS]


def background(loudness: NDArray[np.float64], peak: float) -> tuple[float, float]:
    """How loud it is between sounds, and from how far above that on something is sound, both in dB.

    Steady noise shows as many hops of nearly the same level, far below the loudest; sound may be heard just above it.
    Where there is none, the quietest tenth is the background. The quietest tenth alone would be misled by clips whose
    own pauses are quieter than the noise between them.
    """
    ordered = np.sort(loudness)
    count = max(1, int(STEADY_SHARE * len(ordered)))
    ranges = ordered[count - 1 :] - ordered[: len(ordered) - count + 1]
    narrowest = int(ranges.argmin())
    level, spread = float(ordered[narrowest : narrowest + count].mean()), float(ranges[narrowest])
    if spread <= STEADY_RANGE and level <= peak - 2 * ABOVE_NOISE:
        return level, min(ABOVE_STEADY_NOISE + 2 * spread, ABOVE_NOISE)
    return float(np.percentile(loudness, 10)), ABOVE_NOISE


def segments(loudness: NDArray[np.float64], seconds: float, most: float) -> list[Span]:
    """What is transcribed on its own: stretches between pauses, none longer than `most` where a short pause divides it.

    Args:
        loudness: of `levels`.
        seconds: the recording's length.
        most: seconds that the model hears at once.

    Returns:
        Spans in seconds, in order, none of which overlap; the whole recording where there is no sound.
    """
    parts: list[Span] = []
    for span in sounds(loudness):
        parts += _divided(loudness, span, most - 2 * CONTEXT_SECONDS)
    return _widened(parts or [(0.0, seconds)], EDGE_SECONDS, seconds)


def context_windows(spans: Sequence[Span], seconds: float, most: float) -> list[list[Span]]:
    """For each segment the windows that the model hears: one, or overlapping ones where it is longer than `most`."""
    wide = _widened(spans, CONTEXT_SECONDS - EDGE_SECONDS, seconds)
    return [
        [(start + first, start + last) for first, last in windows(stop - start, most)] if stop - start > most else [own]
        for own in wide
        for start, stop in [own]
    ]


def _divided(loudness: NDArray[np.float64], span: Span, most: float) -> list[Span]:
    """A stretch in parts, each ended by the longest short pause in the last two thirds of what may be heard at once."""
    parts = []
    start, stop = span
    while stop - start > most:
        first = round((start + most / 3) / HOP_SECONDS)
        inner = sounds_between(loudness, first, round((start + most) / HOP_SECONDS))
        pauses = [(after[0] - before[1], before[1], after[0]) for before, after in zip(inner, inner[1:], strict=False)]
        if not pauses:
            break
        _, end, following = max(pauses)
        parts.append((start, end))
        start = following
    return [*parts, (start, stop)]


def sounds_between(loudness: NDArray[np.float64], first: int, last: int) -> list[Span]:
    """Stretches of sound among some hops, short pauses between them, in seconds of the recording."""
    offset = first * HOP_SECONDS
    return [(start + offset, stop + offset) for start, stop in sounds(loudness[first:last], SHORT_PAUSE_SECONDS)]


def _widened(spans: Sequence[Span], by: float, seconds: float) -> list[Span]:
    """Spans that begin and end a little further out, no further than halfway to their neighbors."""
    wide = []
    for number, (start, stop) in enumerate(spans):
        before = (spans[number - 1][1] + start) / 2 if number else 0.0
        after = (stop + spans[number + 1][0]) / 2 if number + 1 < len(spans) else seconds
        wide.append((max(start - by, before, 0.0), min(stop + by, after, seconds)))
    return wide
