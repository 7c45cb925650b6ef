"""EAT's filter bank against Kaldi's definition written out."""

import math

import numpy as np
import pytest
import torch

from helpers.tensors import noise
from nota_cli.errors import DataError
from nota_cli.features.spectrograms import eat_fbank


def fbank_by_definition(waveform):
    """`torchaudio.compliance.kaldi.fbank(x - x.mean(), window_type="hanning", num_mel_bins=128)`, written out."""
    samples = waveform.double().numpy()
    samples = samples - samples.mean()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)
    mel = lambda hertz: 1127.0 * np.log(1.0 + hertz / 700.0)  # noqa: E731
    delta = (mel(8000.0) - mel(20.0)) / 129
    rows = []
    for start in range(0, len(samples) - 399, 160):
        frame = samples[start : start + 400]
        frame = frame - frame.mean()
        frame = (frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])) * window
        power = np.abs(np.fft.rfft(frame, 512)) ** 2
        energies = []
        for index in range(128):
            left = mel(20.0) + index * delta
            place = (mel(np.arange(256) * 31.25) - left) / delta
            energies.append(power[:256] @ np.maximum(0.0, np.minimum(place, 2.0 - place)))
        rows.append(np.log(np.maximum(energies, np.finfo(np.float32).eps)))
    rows += [np.zeros(128)] * (-len(rows) % 16)
    return torch.from_numpy((np.array(rows) + 4.268) / (4.569 * 2))


def test_fbank_equals_its_definition():
    waveform = 0.1 * noise(3_203) + 0.2
    actual = eat_fbank(waveform)
    assert actual.shape == (32, 128)  # 18 whole windows
    torch.testing.assert_close(actual.double(), fbank_by_definition(waveform), atol=5e-4, rtol=0)
    torch.testing.assert_close(actual[18:], torch.full((14, 128), 4.268 / 9.138))


def test_fbank_of_silence_is_the_smallest_float_step():
    floor = (math.log(np.finfo(np.float32).eps) + 4.268) / 9.138
    torch.testing.assert_close(eat_fbank(torch.zeros(2_800)), torch.full((16, 128), floor))


def test_fbank_takes_batches_and_refuses_less_than_a_window():
    batch = 0.1 * noise(3, 8_000)
    rows = torch.stack([eat_fbank(row) for row in batch])
    torch.testing.assert_close(eat_fbank(batch), rows, atol=1e-5, rtol=0)
    assert eat_fbank(noise(400)).shape == (16, 128)
    with pytest.raises(DataError, match="400 samples"):
        eat_fbank(noise(399))


def test_fbank_first_made_in_inference_mode_serves_training():
    waveform = noise(8_000)
    with torch.inference_mode():
        eat_fbank(waveform)
    waveform.requires_grad_()
    eat_fbank(waveform).sum().backward()
    assert torch.isfinite(waveform.grad).all()
