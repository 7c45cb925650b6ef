"""Spectrograms against transformers', the golden sums, and Kaldi's definition written out."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import WhisperFeatureExtractor

from helpers.paths import GOLDEN, golden_clips
from nota_cli.data.audio.clip import load_audio
from nota_cli.errors import DataError
from nota_cli.features.batch import FRONT_ENDS
from nota_cli.features.constants import BEATS_MEAN, BEATS_STD
from nota_cli.features.spectrograms import kaldi_fbank, log_mel

SYSTEM = GOLDEN / "nota"


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize("clip", golden_clips("nota"))
def test_log_mel_has_the_golden_sum(clip):
    path = next((SYSTEM / "audio").glob(f"a{clip}.*"))
    expected = load_file(SYSTEM / "golden.safetensors")[f"log_mel{clip}_sum"].item()
    actual = log_mel(torch.from_numpy(load_audio(path)), n_mels=128)
    assert actual.shape == (128, 3000)
    assert actual.double().sum().item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("samples", [16_000, 30_111, 500_000])  # the last is longer than Whisper's 30 s
def test_log_mel_equals_transformers(n_mels, samples):
    waveform = noise(samples)
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    expected = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt").input_features[0]
    torch.testing.assert_close(log_mel(waveform, n_mels), expected, atol=1e-5, rtol=0)


def test_log_mel_without_padding_covers_the_clip():
    waveform = noise(24_000)
    own = log_mel(waveform, 80, pad_to=None)
    assert own.shape == (80, 150)
    padded = log_mel(waveform, 80)
    torch.testing.assert_close(own[:, :148], padded[:, :148], atol=1e-5, rtol=0)  # the last windows see the edge


def test_log_mel_floor_is_each_clips_own():
    batch = torch.stack([noise(16_000), noise(16_000, seed=1) * 1e-4])
    together = log_mel(batch, 80, pad_to=None)
    assert together.shape == (2, 80, 100)
    for row in range(2):
        torch.testing.assert_close(together[row], log_mel(batch[row], 80, pad_to=None), atol=1e-6, rtol=0)


def test_log_mel_refuses_less_than_half_a_window():
    with pytest.raises(DataError, match="200 samples"):
        log_mel(noise(200), 80, pad_to=None)


def kaldi_by_definition(waveform, n_mels):
    """One window, one bin at a time, in float64."""
    signal = waveform.double().numpy() * 32_768
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85

    def mel(hertz):
        return 1127 * np.log(1 + hertz / 700)

    width = (mel(8_000.0) - mel(20.0)) / (n_mels + 1)
    rows = []
    for start in range(0, len(signal) - 399, 160):
        frame = signal[start : start + 400] - signal[start : start + 400].mean()
        emphasised = np.array([frame[i] - 0.97 * frame[max(i - 1, 0)] for i in range(400)])
        power = np.abs(np.fft.rfft(emphasised * window, 512)) ** 2
        energies = np.zeros(n_mels)
        for k in range(256):
            place = (mel(k * 31.25) - mel(20.0)) / width  # in triangle widths
            for m in range(n_mels):
                energies[m] += max(0.0, 1 - abs(place - (m + 1))) * power[k]
        rows.append(np.log(np.maximum(energies, np.finfo(np.float32).eps)))
    return torch.tensor(np.array(rows))


@pytest.mark.parametrize("n_mels", [128, 64])
def test_kaldi_fbank_equals_its_definition(n_mels):
    waveform = noise(1_203)
    expected = kaldi_by_definition(waveform, n_mels)
    actual = kaldi_fbank(waveform, n_mels, mean=0.0, std=0.5)
    assert actual.shape == (6, n_mels)
    torch.testing.assert_close(actual.double(), expected, atol=2e-3, rtol=0)
    normalized = kaldi_fbank(waveform, n_mels)
    torch.testing.assert_close(normalized, (actual - BEATS_MEAN) / (2 * BEATS_STD))


def test_kaldi_fbank_of_silence_is_the_smallest_float_step():
    actual = kaldi_fbank(torch.zeros(1_000), mean=0.0, std=0.5)
    torch.testing.assert_close(actual, torch.full((4, 128), float(np.log(np.finfo(np.float32).eps))))


def test_kaldi_fbank_takes_batches():
    batch = noise(3, 8_000)
    together = kaldi_fbank(batch)
    assert together.shape == (3, 48, 128)
    torch.testing.assert_close(together, torch.stack([kaldi_fbank(row) for row in batch]), atol=1e-5, rtol=0)


def test_kaldi_fbank_refuses_less_than_one_window():
    assert kaldi_fbank(noise(400)).shape == (1, 128)
    with pytest.raises(DataError, match="400 samples"):
        kaldi_fbank(noise(399))


@pytest.mark.parametrize("features", [lambda x: log_mel(x, 72, pad_to=None), lambda x: kaldi_fbank(x, 72)])
def test_constants_first_made_in_inference_mode_serve_training(features):
    waveform = noise(8_000)
    with torch.inference_mode():
        features(waveform)
    waveform.requires_grad_()
    features(waveform).sum().backward()
    assert torch.isfinite(waveform.grad).all()


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_spectrograms_do_not_depend_on_the_number_of_threads(name):
    threads = torch.get_num_threads()
    try:
        for seed in range(4):
            waveform = noise(150_000 + 7_919 * seed, seed=seed)
            spectrograms = []
            for count in (1, 2):
                torch.set_num_threads(count)
                spectrograms.append(FRONT_ENDS[name](waveform))
            assert torch.equal(*spectrograms)
    finally:
        torch.set_num_threads(threads)
