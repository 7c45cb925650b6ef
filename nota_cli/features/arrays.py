"""The encoders' spectrograms in numpy, equal to `nota_cli.features.spectrograms` within rounding, without torch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from nota_cli.errors import DataError
from nota_cli.features.constants import (
    BEATS_MEAN,
    BEATS_STD,
    CED_MELS,
    CED_RANGE_DB,
    CED_WINDOW,
    EAT_MEAN,
    EAT_PATCH,
    EAT_STD,
    HOP,
    INT16_SCALE,
    KALDI_FFT,
    KALDI_LOW_HZ,
    KALDI_PREEMPHASIS,
    POVEY_POWER,
    WHISPER_SAMPLES,
    WINDOW,
)
from nota_cli.features.mel_filters import htk_filters, kaldi_filters, slaney_filters

Array = np.ndarray[Any, Any]

KALDI_BINS = 128


def log_mel(waveform: Array, n_mels: int, pad_to: int | None = WHISPER_SAMPLES) -> Array:
    """Whisper's log-mel of one waveform `[n]`: float32 `[n_mels, frames]`; see the torch function of the same name.

    Raises:
        DataError: the waveform is shorter than half a window.
    """
    samples = np.asarray(waveform, dtype=np.float32)
    if pad_to is not None:
        samples = np.pad(samples[:pad_to], (0, max(0, pad_to - len(samples))))
    if len(samples) <= WINDOW // 2:
        raise DataError(f"a log-mel needs more than {WINDOW // 2} samples, got {len(samples)}.")
    power = _centered_power(samples, _hann(WINDOW))[:-1]
    log_power = np.log10(np.maximum(slaney_filters(n_mels, WINDOW)(power).T, np.float32(1e-10)))
    mel: Array = (np.maximum(log_power, log_power.max() - np.float32(8.0)) + np.float32(4.0)) / np.float32(4.0)
    return mel


def kaldi_fbank(waveform: Array) -> Array:
    """Kaldi's filter bank as BEATs wants it, float32 `[frames, 128]`; see the torch function of the same name.

    Raises:
        DataError: the waveform is shorter than one window.
    """
    samples = np.asarray(waveform, dtype=np.float32) * np.float32(INT16_SCALE)
    energies = _kaldi_log_energies(samples, _hann(WINDOW, periodic=False) ** np.float32(POVEY_POWER))
    return (energies - np.float32(BEATS_MEAN)) / np.float32(2.0 * BEATS_STD)


def eat_fbank(waveform: Array) -> Array:
    """Kaldi's filter bank as EAT wants it, float32 `[frames, 128]`; see the torch function of the same name.

    Raises:
        DataError: the waveform is shorter than one window.
    """
    samples = np.asarray(waveform, dtype=np.float32)
    energies = _kaldi_log_energies(samples - samples.mean(dtype=np.float32), _hann(WINDOW, periodic=False))
    energies = np.pad(energies, ((0, -len(energies) % EAT_PATCH), (0, 0)))
    return (energies - np.float32(EAT_MEAN)) / np.float32(2.0 * EAT_STD)


def ced_spectrogram(waveform: Array, mean: float = 0.0, std: float = 0.5) -> Array:
    """CED's spectrogram in dB, float32 `[frames, 64]`; see the torch function of the same name.

    Raises:
        DataError: the waveform is shorter than half a window.
    """
    samples = np.asarray(waveform, dtype=np.float32)
    if len(samples) <= CED_WINDOW // 2:
        raise DataError(f"CED's spectrogram needs more than {CED_WINDOW // 2} samples, got {len(samples)}.")
    power = _centered_power(samples, _hann(CED_WINDOW))
    mel = np.maximum(htk_filters(CED_MELS, CED_WINDOW)(power), np.float32(1e-10))
    decibels = np.float32(10.0) * np.log10(mel)
    floored = np.maximum(decibels, decibels.max() - np.float32(CED_RANGE_DB))
    scaled: Array = (floored - np.float32(mean)) / np.float32(2.0 * std)
    return scaled


FRONT_ENDS: dict[str, Callable[[Array], Array]] = {
    "beats": kaldi_fbank,
    "eat": eat_fbank,
    "ced": ced_spectrogram,
    "ced_beats_scaling": partial(ced_spectrogram, mean=BEATS_MEAN, std=BEATS_STD),
}
"""Those of `nota_cli.features.batch.FRONT_ENDS`, by the same names."""


@dataclass(frozen=True)
class ArrayFeatures:
    """Both spectrograms of a batch, zero-padded: `nota_cli.features.batch.Features` as arrays.

    Attributes:
        log_mel: `[batch, mel bins, frames]` and `log_mel_lengths` `[batch]`.
        fbank: `[batch, frames, bins]` and `fbank_lengths` `[batch]`, or None without an audio encoder.
    """

    log_mel: Array
    log_mel_lengths: Array
    fbank: Array | None = None
    fbank_lengths: Array | None = None

    def part(self, chosen: slice) -> "ArrayFeatures":
        """Those of some clips, padded as a batch of these alone would be."""
        lengths = self.log_mel_lengths[chosen]
        longest = int(lengths.max())
        mel = self.log_mel[chosen, :, : longest + longest % 2]
        if self.fbank is None or self.fbank_lengths is None:
            return ArrayFeatures(mel, lengths)
        fbank_lengths = self.fbank_lengths[chosen]
        return ArrayFeatures(mel, lengths, self.fbank[chosen, : int(fbank_lengths.max())], fbank_lengths)


@dataclass(frozen=True)
class ArrayFeatureSpec:
    """What a model's encoders want of waveforms: `nota_cli.features.batch.FeatureSpec` without torch."""

    mel_bins: int
    front_end: str | None
    pad: str
    max_seconds: float
    device: None = None

    def features(self, waves: list[Array]) -> ArrayFeatures:
        """What the encoders see of clips at 16 kHz, each computed alone."""
        pad_to = WHISPER_SAMPLES if self.pad == "30s" else None
        mels = [log_mel(wave, self.mel_bins, pad_to) for wave in waves]
        lengths = np.array([mel.shape[1] for mel in mels], dtype=np.int64)
        longest = int(lengths.max())
        batch = np.zeros((len(mels), self.mel_bins, longest + longest % 2), dtype=np.float32)
        for row, mel in zip(batch, mels, strict=True):
            row[:, : mel.shape[1]] = mel
        if self.front_end is None:
            return ArrayFeatures(batch, lengths)
        banks = [FRONT_ENDS[self.front_end](wave) for wave in waves]
        bank_lengths = np.array([len(bank) for bank in banks], dtype=np.int64)
        padded = np.zeros((len(banks), int(bank_lengths.max()), banks[0].shape[1]), dtype=np.float32)
        for row, bank in zip(padded, banks, strict=True):
            row[: len(bank)] = bank
        return ArrayFeatures(batch, lengths, padded, bank_lengths)


def _hann(length: int, *, periodic: bool = True) -> Array:
    angles = np.arange(length) * (2.0 * np.pi / (length if periodic else length - 1))
    window: Array = (0.5 - 0.5 * np.cos(angles)).astype(np.float32)
    return window


def _centered_power(samples: Array, window: Array) -> Array:
    """Power `[frames, bins]` of frames round every 160th sample, the waveform mirrored at its ends."""
    half = len(window) // 2
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, half, mode="reflect"), len(window))[::HOP]
    return _power(np.fft.rfft(frames * window))


def _kaldi_log_energies(samples: Array, window: Array) -> Array:
    if len(samples) < WINDOW:
        raise DataError(f"a filter bank needs at least {WINDOW} samples, got {len(samples)}.")
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    frames = frames - frames.mean(axis=1, keepdims=True, dtype=np.float32)
    previous = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    power = _power(np.fft.rfft((frames - np.float32(KALDI_PREEMPHASIS) * previous) * window, n=KALDI_FFT))
    energies = kaldi_filters(KALDI_BINS, KALDI_FFT, KALDI_LOW_HZ)(power)
    logs: Array = np.log(np.maximum(energies, np.finfo(np.float32).eps))
    return logs


def _power(spectrum: Array) -> Array:
    power: Array = np.square(spectrum.real) + np.square(spectrum.imag)
    return power
