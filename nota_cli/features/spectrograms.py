"""Spectrograms for the encoders: log-mels and Kaldi's filter bank, in batches and on any device."""

import functools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

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
    SAMPLE_RATE,
    WHISPER_SAMPLES,
    WINDOW,
)
from nota_cli.features.mel_filters import kaldi_triangles


def log_mel(waveform: torch.Tensor, n_mels: int, pad_to: int | None = WHISPER_SAMPLES) -> torch.Tensor:
    """Whisper's log-mel spectrogram (Radford et al. 2022), equal to transformers' `WhisperFeatureExtractor`.

    Args:
        waveform: `[n]` or `[B, n]`, float in [-1, 1] at 16 kHz; a batch has one common length.
        n_mels: 80, or 128 for large-v3 and turbo; any number works.
        pad_to: samples to pad with zeros or cut to; None covers the clip's own length.

    Returns:
        float32 `[n_mels, frames]` or `[B, n_mels, frames]`, 100 frames a second. The floor, 8 below the loudest
        place, is the clip's own.

    Raises:
        DataError: the waveform is shorter than half a window.
    """
    waveform = waveform.float()
    if pad_to is not None:
        waveform = F.pad(waveform, (0, pad_to - waveform.shape[-1]))  # a negative padding cuts
    if waveform.shape[-1] <= WINDOW // 2:
        raise DataError(f"a log-mel needs more than {WINDOW // 2} samples, got {waveform.shape[-1]}.")
    window = _hann(waveform.device)
    spectrum = torch.stft(waveform, WINDOW, HOP, window=window, return_complex=True)[..., :-1]
    power: torch.Tensor = spectrum.real.square() + spectrum.imag.square()
    mel = _slaney_filters(n_mels, waveform.device) @ power
    log_power = mel.clamp(min=1e-10).log10()
    floor = log_power.amax(dim=(-2, -1), keepdim=True) - 8.0
    return (torch.maximum(log_power, floor) + 4.0) / 4.0


def kaldi_fbank(
    waveform: torch.Tensor, n_mels: int = 128, mean: float = BEATS_MEAN, std: float = BEATS_STD
) -> torch.Tensor:
    """Kaldi's log mel filter bank, normalized as BEATs wants it: `(x - mean) / (2 std)`.

    Before the normalization it equals `torchaudio.compliance.kaldi.fbank(waveform * 2**15, num_mel_bins=n_mels,
    sample_frequency=16000, frame_length=25, frame_shift=10)`: Povey window, no dither, whole windows only.

    Args:
        waveform: `[n]` or `[B, n]`, float in [-1, 1] at 16 kHz; a batch has one common length.
        n_mels: number of mel bins.
        mean, std: of the normalization; BEATs' by default (0 and 0.5 leave the filter bank as it is).

    Returns:
        float32 `[frames, n_mels]` or `[B, frames, n_mels]`, frames = 1 + (n - 400) // 160.

    Raises:
        DataError: the waveform is shorter than one window.
    """
    log_energies = _kaldi_log_energies(waveform.float() * INT16_SCALE, _povey(waveform.device), n_mels)
    return (log_energies - mean) / (2.0 * std)


def eat_fbank(waveform: torch.Tensor) -> torch.Tensor:
    """Kaldi's log mel filter bank of 128 bins as EAT wants it (Chen et al. 2024): `(x + 4.268) / (2 x 4.569)`.

    It differs from `kaldi_fbank` in the Hann window, in taking samples in [-1, 1] as they are, and in the mean of the
    clip, which is subtracted first. Like the published feature extraction for clips of any length it fills the last
    patch of 16 frames with zeros, which stand for a log energy of zero and so are normalized like the rest.

    Args:
        waveform: `[n]` or `[B, n]`, float in [-1, 1] at 16 kHz; a batch has one common length.

    Returns:
        float32 `[frames, 128]` or `[B, frames, 128]`, frames = 1 + (n - 400) // 160 rounded up to whole patches.

    Raises:
        DataError: the waveform is shorter than one window.
    """
    waveform = waveform.float()
    # In float32 the mean would depend on how many threads share the sum, and so on which process makes the features.
    mean = waveform.mean(dim=-1, keepdim=True, dtype=torch.float64).float()
    log_energies = _kaldi_log_energies(waveform - mean, _hanning(waveform.device), 128)
    missing = -log_energies.shape[-2] % EAT_PATCH
    return (F.pad(log_energies, (0, 0, 0, missing)) - EAT_MEAN) / (2.0 * EAT_STD)


def _kaldi_log_energies(samples: torch.Tensor, window: torch.Tensor, n_mels: int) -> torch.Tensor:
    """`[..., frames, n_mels]` of float32 samples at any scale: frames without their mean, pre-emphasis, windows."""
    if samples.shape[-1] < WINDOW:
        raise DataError(f"a filter bank needs at least {WINDOW} samples, got {samples.shape[-1]}.")
    frames = samples.unfold(-1, WINDOW, HOP)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    spectrum = torch.fft.rfft((frames - KALDI_PREEMPHASIS * previous) * window, n=KALDI_FFT)
    power: torch.Tensor = spectrum.real.square() + spectrum.imag.square()
    energies: torch.Tensor = power @ _kaldi_filters(n_mels, samples.device)
    return energies.clamp(min=torch.finfo(torch.float32).eps).log()


def ced_spectrogram(waveform: torch.Tensor, mean: float = 0.0, std: float = 0.5) -> torch.Tensor:
    """CED's log-mel spectrogram in dB (Dinkel et al. 2023), as published or normalized: `(x - mean) / (2 std)`.

    Before the normalization it equals torchaudio's `MelSpectrogram(sample_rate=16000, n_fft=512, hop_length=160,
    n_mels=64)` and `AmplitudeToDB(top_db=120)` on this clip alone: 64 triangles of height 1 on the HTK mel scale up to
    8,000 Hz, frames centred on every 160th sample, the clip mirrored at its ends.

    Args:
        waveform: `[n]` or `[B, n]`, float in [-1, 1] at 16 kHz; a batch has one common length.
        mean, std: of the normalization; 0 and 0.5 leave the dB as they are, as published. Team NLP-07 gave their CED
            `BEATS_MEAN` and `BEATS_STD`.

    Returns:
        float32 `[frames, 64]` or `[B, frames, 64]`, frames = 1 + n // 160.

    Raises:
        DataError: the waveform is shorter than half a window.
    """
    waveform = waveform.float()
    if waveform.shape[-1] <= CED_WINDOW // 2:
        raise DataError(f"CED's spectrogram needs more than {CED_WINDOW // 2} samples, got {waveform.shape[-1]}.")
    window = _ced_hann(waveform.device)
    spectrum = torch.stft(waveform, CED_WINDOW, HOP, window=window, return_complex=True)
    power: torch.Tensor = spectrum.real.square() + spectrum.imag.square()
    decibels = 10.0 * (_htk_filters(CED_MELS, waveform.device) @ power).clamp(min=1e-10).log10()
    floor = decibels.amax(dim=(-2, -1), keepdim=True) - CED_RANGE_DB
    return (torch.maximum(decibels, floor).transpose(-2, -1) - mean) / (2.0 * std)


def _constant(array: np.ndarray[Any, Any], device: torch.device) -> torch.Tensor:
    # Made outside inference mode even if first asked for inside it: these are cached and shared with training.
    with torch.inference_mode(False):
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)


@functools.lru_cache(maxsize=8)
def _hann(device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):
        return torch.hann_window(WINDOW, device=device)


@functools.lru_cache(maxsize=8)
def _hanning(device: torch.device) -> torch.Tensor:
    """Kaldi's Hann window ends on zero; Whisper's, `_hann`, is one period of a longer one."""
    with torch.inference_mode(False):
        return torch.hann_window(WINDOW, periodic=False, device=device)


@functools.lru_cache(maxsize=8)
def _ced_hann(device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):
        return torch.hann_window(CED_WINDOW, device=device)


@functools.lru_cache(maxsize=8)
def _povey(device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):
        return torch.hann_window(WINDOW, periodic=False, device=device).pow(POVEY_POWER)


@functools.lru_cache(maxsize=16)
def _slaney_filters(n_mels: int, device: torch.device) -> torch.Tensor:
    """`[n_mels, 201]` triangles of equal area on Slaney's mel scale, 0 to 8,000 Hz."""
    from transformers.audio_utils import mel_filter_bank  # late: only models that read log-mels need transformers here

    filters = mel_filter_bank(WINDOW // 2 + 1, n_mels, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    return _constant(filters.T, device)


@functools.lru_cache(maxsize=16)
def _htk_filters(n_mels: int, device: torch.device) -> torch.Tensor:
    """`[n_mels, 257]` triangles of height 1 on the HTK mel scale, 0 to 8,000 Hz."""
    from transformers.audio_utils import mel_filter_bank  # late, as above

    filters = mel_filter_bank(CED_WINDOW // 2 + 1, n_mels, 0.0, 8000.0, SAMPLE_RATE, norm=None, mel_scale="htk")
    return _constant(filters.T, device)


@functools.lru_cache(maxsize=16)
def _kaldi_filters(n_mels: int, device: torch.device) -> torch.Tensor:
    """`[257, n_mels]` triangles of height 1, straight in mel, 20 Hz to 8,000 Hz; the Nyquist bin counts for nothing."""
    return _constant(kaldi_triangles(n_mels, KALDI_FFT, KALDI_LOW_HZ), device)
