"""Waveform and spectrogram of a recording as a piece of HTML: a few kilobytes, drawn by numpy alone."""

import base64
import html
import struct
import zlib
from typing import Any

import numpy as np

from nota_cli.features.constants import SAMPLE_RATE

COLUMNS = 600  # of both pictures, whatever the recording's length
ROWS = 96  # of the spectrogram
WINDOW = 1024  # samples: 64 ms
RANGE_DB = 70.0  # below the loudest place, where the darkest color begins
WAVE_HEIGHT = 100.0  # of the waveform's own coordinates
COLORS = np.array([[11, 16, 38], [49, 35, 104], [129, 43, 117], [216, 75, 92], [250, 151, 86], [252, 246, 190]])
"""From quiet to loud, evenly spaced: lightness grows all the way, so that it reads without color too."""


def picture(waveform: np.ndarray[Any, Any], name: str) -> str:
    """A figure of both, time from left to right, that is as wide as the page allows.

    Args:
        waveform: float32 `[samples]` at 16 kHz, at least one sample.
        name: the recording's, for those who do not see it.
    """
    seconds = len(waveform) / SAMPLE_RATE
    label = html.escape(f"Waveform and spectrogram of {name}, {seconds:.1f} s", quote=True)
    image = base64.b64encode(png(spectrogram(waveform))).decode()
    ticks = "".join(f"<span>{tick}</span>" for tick in time_ticks(seconds))
    return (
        f'<figure class="nota-picture" role="img" aria-label="{label}">'
        f'<svg viewBox="0 0 {COLUMNS} {WAVE_HEIGHT:g}" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="{wave_path(waveform)}"/></svg>'
        f'<div class="nota-spectrogram"><img alt="" src="data:image/png;base64,{image}"><b>8 kHz</b><i>0</i></div>'
        f'<div class="nota-ticks" aria-hidden="true">{ticks}</div></figure>'
    )


def wave_path(waveform: np.ndarray[Any, Any]) -> str:
    """The envelope as an SVG path: the highest sample of every column, then back along the lowest."""
    columns = min(COLUMNS, len(waveform))
    starts = np.linspace(0, len(waveform), columns, endpoint=False).astype(int)
    peak = max(float(np.abs(waveform).max()), 1e-3)
    middle = WAVE_HEIGHT / 2
    high = middle - np.maximum.reduceat(waveform, starts) / peak * (middle - 2)
    low = middle - np.minimum.reduceat(waveform, starts) / peak * (middle - 2) + 0.6
    edges = np.linspace(0, COLUMNS, columns)
    points = [*zip(edges, high, strict=True), *zip(edges[::-1], low[::-1], strict=True)]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"


def spectrogram(waveform: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Levels from 0 to 1 `[ROWS, COLUMNS]`, the highest frequency on top, the rows evenly spaced in mel."""
    middles = np.linspace(0, len(waveform), COLUMNS, endpoint=False).astype(int)
    padded = np.pad(waveform, WINDOW // 2)
    frames = padded[middles[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), ROWS + 1) / 2595) - 1)
    bins = np.minimum((edges / SAMPLE_RATE * WINDOW).astype(int), WINDOW // 2)
    rows = np.stack([power[:, low : max(high, low + 1)].mean(1) for low, high in zip(bins, bins[1:], strict=False)])
    decibels = 10 * np.log10(rows + 1e-10)
    levels: np.ndarray[Any, Any] = np.clip((decibels - decibels.max()) / RANGE_DB + 1, 0, 1)[::-1]
    return levels


def png(levels: np.ndarray[Any, Any]) -> bytes:
    """A PNG of levels from 0 to 1 `[rows, columns]`, with a palette of 64 colors (PNG specification, color type 3)."""
    steps = np.linspace(0, len(COLORS) - 1, 64)
    palette = np.stack([np.interp(steps, np.arange(len(COLORS)), channel) for channel in COLORS.T], axis=1)
    indices = np.round(levels * 63).astype(np.uint8)
    lines = b"".join(b"\0" + line.tobytes() for line in indices)
    size = struct.pack(">IIBBBBB", indices.shape[1], indices.shape[0], 8, 3, 0, 0, 0)
    chunks = [(b"IHDR", size), (b"PLTE", palette.round().astype(np.uint8).tobytes())]
    chunks += [(b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def time_ticks(seconds: float) -> list[str]:
    """Labels for five evenly spaced moments, the first and the last among them."""
    digits = 1 if seconds < 20 else 0
    times = [seconds * part / 4 for part in range(5)]
    return [f"{time:.{digits}f}" + (" s" if time == times[-1] else "") for time in times]
