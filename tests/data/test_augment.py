import numpy as np
import pytest
import torch

from nota_cli.data.audio.clip import SAMPLE_RATE
from nota_cli.data.augment import augment_waveform, crop, mask_spectrogram, mix, roll, weaken
from nota_cli.recipe.training import Augment

EVERYTHING = Augment(speed=0.1, gain_db=6, noise=0.5, roll=0.5, tone=6, mask_time=10, mask_frequency=8)


@pytest.fixture
def wave() -> np.ndarray:
    return (0.3 * np.random.default_rng(1).standard_normal(SAMPLE_RATE)).astype(np.float32).clip(-1, 1)


def test_the_same_seed_gives_the_same_clip(wave: np.ndarray) -> None:
    first, again, other = (augment_waveform(wave, EVERYTHING, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first[:8000], other[:8000])


def test_an_empty_recipe_changes_nothing(wave: np.ndarray) -> None:
    assert np.array_equal(augment_waveform(wave, Augment(), np.random.default_rng(0)), wave)


def test_clips_stay_float32_and_within_full_scale(wave: np.ndarray) -> None:
    for seed in range(5):
        louder = augment_waveform(wave, Augment(gain_db=30, tone=10), np.random.default_rng(seed))
        assert louder.dtype == np.float32
        assert np.abs(louder).max() <= 1


def test_speed_changes_the_length_within_its_bound(wave: np.ndarray) -> None:
    lengths = [len(augment_waveform(wave, Augment(speed=0.1), np.random.default_rng(seed))) for seed in range(8)]
    assert min(lengths) >= len(wave) / 1.1 - 1
    assert max(lengths) <= len(wave) / 0.9 + 1
    assert len(set(lengths)) > 1


def test_tone_tilts_the_spectrum_and_keeps_the_length(wave: np.ndarray) -> None:
    tilted = augment_waveform(wave, Augment(tone=12), np.random.default_rng(0))
    assert len(tilted) == len(wave)
    before, after = (np.abs(np.fft.rfft(x)) for x in (wave, tilted))
    low, high = slice(100, 1000), slice(-1000, -100)
    ratio = (after[high].mean() / before[high].mean()) / (after[low].mean() / before[low].mean())
    assert abs(20 * np.log10(ratio)) > 0.5


@pytest.mark.parametrize("snr", [0.0, 10.0])
@pytest.mark.parametrize("length", [700, 40000])
def test_mix_puts_the_other_sound_so_far_below(wave: np.ndarray, snr: float, length: int) -> None:
    other = np.random.default_rng(2).standard_normal(length).astype(np.float32)
    added = mix(wave, other, snr) - wave
    found = 10 * np.log10(np.mean(wave**2) / np.mean(added**2))
    assert found == pytest.approx(snr, abs=0.05)


def test_silence_can_be_mixed(wave: np.ndarray) -> None:
    silence = np.zeros(100, dtype=np.float32)
    assert np.isfinite(mix(wave, silence, 5)).all()
    assert np.isfinite(mix(silence, wave, 5)).all()


def test_roll_keeps_every_sample(wave: np.ndarray) -> None:
    rolled = roll(wave, np.random.default_rng(0))
    assert not np.array_equal(rolled, wave)
    assert np.array_equal(np.sort(rolled), np.sort(wave))


def test_crop_is_a_stretch_of_the_clip_and_leaves_short_ones_alone(wave: np.ndarray) -> None:
    ramp = np.arange(SAMPLE_RATE, dtype=np.float32)
    cut = crop(ramp, 0.25, np.random.default_rng(0))
    assert len(cut) == SAMPLE_RATE // 4
    assert (np.diff(cut) == 1).all()
    assert crop(wave, 1.0, np.random.default_rng(0)) is wave


def test_crop_takes_the_louder_of_its_two_draws() -> None:
    ramp = np.arange(SAMPLE_RATE, dtype=np.float32)
    length = SAMPLE_RATE // 10
    starts = np.random.default_rng(5).integers(SAMPLE_RATE - length + 1, size=2)
    assert crop(ramp, 0.1, np.random.default_rng(5))[0] == starts.max()


def test_masks_are_two_of_each_kind_at_most_so_wide_and_hold_the_mean() -> None:
    frames = torch.randn(200, 80, generator=torch.Generator().manual_seed(0))
    before = frames.clone()
    for seed in range(10):
        masked = mask_spectrogram(frames, Augment(mask_time=10, mask_frequency=8), np.random.default_rng(seed))
        changed = masked != frames
        assert torch.equal(masked[changed], frames.mean().expand(int(changed.sum())))
        assert int(changed.all(1).sum()) <= 20
        assert int(changed.all(0).sum()) <= 16
    assert torch.equal(frames, before)


def test_masks_wider_than_the_spectrogram_are_cut_to_it() -> None:
    frames = torch.randn(8, 5)
    for seed in range(10):
        masked = mask_spectrogram(frames, Augment(mask_time=500, mask_frequency=500), np.random.default_rng(seed))
        assert masked.shape == frames.shape


def test_weaken_scales_what_hides_the_sound_and_nothing_else() -> None:
    half = weaken(EVERYTHING, 0.5)
    assert (half.tone, half.noise, half.mask_time, half.mask_frequency) == (3, 0.25, 5, 4)
    assert (half.speed, half.gain_db, half.roll) == (EVERYTHING.speed, EVERYTHING.gain_db, EVERYTHING.roll)
    assert weaken(EVERYTHING, 1.0) == EVERYTHING
