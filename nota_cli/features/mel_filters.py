"""Triangular mel filters in numpy, for spectrograms that are made without torch."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from nota_cli.features.constants import SAMPLE_RATE

Array = np.ndarray[Any, Any]

SLANEY_STEP_HZ = 200.0 / 3.0  # a mel of Slaney's scale, below its break
SLANEY_BREAK_HZ = 1000.0
SLANEY_OCTAVE = 27.0 / np.log(6.4)  # mels in a factor of e above the break


@dataclass(frozen=True)
class MelBank:
    """Triangles over a spectrum's bins, each with only those that it covers.

    A matrix product would do as well, but numpy's shares it among threads that then wait for each other.

    Attributes:
        bands: for each filter its bins and their float32 weights.
    """

    bands: list[tuple[slice, Array]]

    def __call__(self, power: Array) -> Array:
        """Power `[frames, bins]` to energies `[frames, filters]`."""
        columns = np.ascontiguousarray(power.T)
        return np.stack([np.einsum("bf,b->f", columns[bins], weights) for bins, weights in self.bands], axis=1)

    @classmethod
    def of(cls, slopes: Array) -> "MelBank":
        """Of a matrix `[bins, filters]`."""
        bands = []
        for number in range(slopes.shape[1]):
            column = slopes[:, number].astype(np.float32)
            covered = np.flatnonzero(column)
            start, stop = (int(covered[0]), int(covered[-1]) + 1) if len(covered) else (0, 1)
            bands.append((slice(start, stop), column[start:stop]))
        return cls(bands)


@functools.lru_cache(maxsize=8)
def slaney_filters(n_mels: int, n_fft: int) -> MelBank:
    """Triangles of equal area on Slaney's mel scale, 0 to 8,000 Hz, over `n_fft / 2 + 1` bins."""
    hertz = _from_slaney(np.linspace(0.0, _to_slaney(SAMPLE_RATE / 2), n_mels + 2))
    return MelBank.of(_triangles(hertz, n_fft) * (2.0 / (hertz[2:] - hertz[:-2])))


@functools.lru_cache(maxsize=8)
def htk_filters(n_mels: int, n_fft: int) -> MelBank:
    """Triangles of height 1 on the HTK mel scale, 0 to 8,000 Hz, over `n_fft / 2 + 1` bins."""
    highest = 2595.0 * np.log10(1.0 + SAMPLE_RATE / 2 / 700.0)
    hertz = 700.0 * (10.0 ** (np.linspace(0.0, highest, n_mels + 2) / 2595.0) - 1.0)
    return MelBank.of(_triangles(hertz, n_fft))


@functools.lru_cache(maxsize=8)
def kaldi_filters(n_mels: int, n_fft: int, low_hz: float) -> MelBank:
    """The bank of `kaldi_triangles`."""
    return MelBank.of(kaldi_triangles(n_mels, n_fft, low_hz))


def kaldi_triangles(n_mels: int, n_fft: int, low_hz: float) -> Array:
    """`[n_fft / 2 + 1, n_mels]` triangles of height 1, straight in mel; the Nyquist bin counts for nothing.

    Args:
        n_mels: number of filters.
        n_fft: size of the transform.
        low_hz: where the first filter begins; the last one ends at 8,000 Hz.
    """
    low, high = _to_kaldi(np.array([low_hz, SAMPLE_RATE / 2]))
    edges = np.linspace(low, high, n_mels + 2)
    bins = _to_kaldi(np.arange(n_fft // 2) * SAMPLE_RATE / n_fft)
    return np.pad(_slopes(bins, edges), ((0, 1), (0, 0)))


def _triangles(edges_hz: Array, n_fft: int) -> Array:
    return _slopes(np.linspace(0.0, SAMPLE_RATE / 2, n_fft // 2 + 1), edges_hz)


def _slopes(bins: Array, edges: Array) -> Array:
    """`[bins, filters]`: each filter rises from one edge to the next and falls to the one after."""
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    slopes: Array = np.maximum(0.0, np.minimum(rising, falling))
    return slopes


def _to_slaney(hertz: float) -> float:
    return float(SLANEY_BREAK_HZ / SLANEY_STEP_HZ + np.log(hertz / SLANEY_BREAK_HZ) * SLANEY_OCTAVE)


def _from_slaney(mels: Array) -> Array:
    least = SLANEY_BREAK_HZ / SLANEY_STEP_HZ
    above = SLANEY_BREAK_HZ * np.exp((mels - least) / SLANEY_OCTAVE)
    return np.where(mels < least, mels * SLANEY_STEP_HZ, above)


def _to_kaldi(hertz: Array) -> Array:
    return 1127.0 * np.log1p(hertz / 700.0)
