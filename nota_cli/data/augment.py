"""Random changes to training clips: speed, gain, tone, noise, mixing, masks on spectrograms.

Every function takes the generator that it draws from, so that a batch depends on its seed alone.
"""

from typing import Any

import numpy as np
import soxr
import torch
from numpy.random import Generator
from torch import Tensor

from nota_cli.features.constants import SAMPLE_RATE
from nota_cli.recipe.training import Augment

FLOOR = 1e-8  # keeps levels of digital silence finite


def weaken(spec: Augment, strength: float) -> Augment:
    """The same changes at `strength` (0 to 1) of what hides the sound: tone, noise and masks."""
    return spec.model_copy(
        update={
            "tone": spec.tone * strength,
            "noise": spec.noise * strength,
            "mask_time": round(spec.mask_time * strength),
            "mask_frequency": round(spec.mask_frequency * strength),
        }
    )


def augment_waveform(wave: np.ndarray[Any, Any], spec: Augment, rng: Generator) -> np.ndarray[Any, Any]:
    """Speed, tone, gain and noise, in this order, as far as the recipe asks for them; [samples] in and out."""
    if spec.speed:
        rate = SAMPLE_RATE * (1 + rng.uniform(-spec.speed, spec.speed))
        wave = soxr.resample(wave, rate, SAMPLE_RATE, quality="LQ")
    if spec.tone:
        wave = _tilt(wave, rng.uniform(-spec.tone, spec.tone))
    if spec.gain_db:
        wave = wave * 10 ** (rng.uniform(-spec.gain_db, spec.gain_db) / 20)
    if rng.random() < spec.noise:
        wave = mix(wave, rng.standard_normal(len(wave), dtype=np.float32), rng.uniform(5, 35))
    peak = np.abs(wave).max(initial=0.0)
    return (wave / peak if peak > 1 else wave).astype(np.float32)


def mix(wave: np.ndarray[Any, Any], other: np.ndarray[Any, Any], snr_db: float) -> np.ndarray[Any, Any]:
    """Add `other`, repeated or cut to length, so that it lies `snr_db` below `wave` in mean power; all `[samples]`."""
    other = np.resize(other, len(wave))
    level = np.sqrt(np.mean(wave**2) + FLOOR) / np.sqrt(np.mean(other**2) + FLOOR)
    mixed: np.ndarray[Any, Any] = wave + other * (level * 10 ** (-snr_db / 20))
    return mixed


def roll(wave: np.ndarray[Any, Any], rng: Generator) -> np.ndarray[Any, Any]:
    """The clip `[samples]` begun at another moment, its start put behind its end."""
    return np.roll(wave, rng.integers(len(wave)))


def crop(wave: np.ndarray[Any, Any], seconds: float, rng: Generator) -> np.ndarray[Any, Any]:
    """The louder of two random stretches of a clip `[samples]` at 16 kHz.

    A short sound in a quiet clip is then seldom cut away. A clip of `seconds` or less stays as it is.
    """
    length = int(seconds * SAMPLE_RATE)
    if len(wave) <= length:
        return wave
    stretches = [wave[start : start + length] for start in rng.integers(len(wave) - length + 1, size=2)]
    return max(stretches, key=lambda stretch: float(np.mean(stretch**2)))


def mask_spectrogram(frames: Tensor, spec: Augment, rng: Generator) -> Tensor:
    """SpecAugment (Park et al., 2019) with two masks a kind, filled with the clip's mean; [frames, bins]."""
    length, bins = frames.shape
    fill = frames.mean()
    keep = torch.ones(length, bins, dtype=torch.bool)
    for _ in range(2):
        for size, widest, axis in ((length, min(spec.mask_time, length // 4), 0), (bins, spec.mask_frequency, 1)):
            width = int(rng.integers(min(widest, size) + 1))
            start = int(rng.integers(size - width + 1))
            keep.narrow(axis, start, width).fill_(False)
    return torch.where(keep, frames, fill)


def _tilt(wave: np.ndarray[Any, Any], db: float) -> np.ndarray[Any, Any]:
    size = 1 << (len(wave) - 1).bit_length()  # a length with a large prime factor would take a hundred times longer
    spectrum = np.fft.rfft(wave, size)
    slope = np.linspace(-db / 2, db / 2, len(spectrum), dtype=np.float32)
    return np.fft.irfft(spectrum * 10 ** (slope / 20), size)[: len(wave)]
