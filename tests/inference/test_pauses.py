"""Recordings divided at their pauses."""

import numpy as np
import pytest

from nota_cli.inference import pauses

RATE = 16_000


def recording(*parts: tuple[float, float], noise: float = 1e-4) -> np.ndarray:
    """Noise of given seconds and loudness, one part after another, over a faint background."""
    generator = np.random.default_rng(0)
    loud = [level * generator.standard_normal(round(seconds * RATE)) for seconds, level in parts]
    wave = np.concatenate(loud)
    return (wave + noise * generator.standard_normal(len(wave))).astype(np.float32)


def divided(wave: np.ndarray, most: float = 30.0) -> list[pauses.Span]:
    return pauses.segments(pauses.levels([wave], RATE), len(wave) / RATE, most)


@pytest.mark.parametrize("noise", [0.0, 1e-4, 3e-3])
def test_segments_are_where_the_sound_is(noise: float) -> None:
    wave = recording((1.0, 0), (2.0, 0.2), (1.5, 0), (3.0, 0.1), (0.3, 0), (1.0, 0.1), (2.0, 0), noise=noise)
    spans = divided(wave)
    assert len(spans) == 2  # the pause of 0.3 s is none
    assert spans[0] == pytest.approx((1.0, 3.0), abs=pauses.EDGE_SECONDS + 0.03)
    assert spans[1] == pytest.approx((4.5, 8.8), abs=pauses.EDGE_SECONDS + 0.03)


def test_pieces_of_a_recording_give_the_levels_of_the_whole() -> None:
    wave = recording((1.0, 0), (2.03, 0.2))
    size = 50 * 320
    pieces = [wave[start : start + size] for start in range(0, len(wave), size)]
    assert np.array_equal(pauses.levels(pieces, RATE), pauses.levels([wave], RATE))


def test_a_recording_without_pauses_or_sound_is_one_segment() -> None:
    assert divided(recording((5.0, 0.1))) == [(0.0, 5.0)]
    assert divided(np.zeros(2 * RATE, np.float32)) == [(0.0, 2.0)]


def test_long_segments_end_at_their_longest_short_pause() -> None:
    wave = recording((4.0, 0.1), (0.3, 0), (3.0, 0.1), (0.5, 0), (4.0, 0.1), (1.0, 0))
    spans = divided(wave, most=10.0)
    assert [round(start, 1) for start, _ in spans] == [0.0, 7.7]
    assert max(stop - start for start, stop in spans) <= 10.0
    assert [len(group) for group in pauses.context_windows(spans, 12.8, 10.0)] == [1, 1]


def test_what_no_pause_divides_is_context_windows_in_overlapping_windows() -> None:
    spans = [(0.0, 24.0), (30.0, 31.0)]
    groups = pauses.context_windows(spans, 40.0, 10.0)
    assert [len(group) for group in groups] == [3, 1]
    assert groups[0][0][1] > groups[0][1][0]
    assert groups[1][0] == pytest.approx((29.9, 31.1))


def test_noise_between_clips_that_are_quieter_inside_is_no_sound() -> None:
    """Each clip has its own near silence before and after the words; the noise lies between the clips alone."""
    generator = np.random.default_rng(1)
    pieces, words = [], []
    length = 0
    for gap in (2.0, 1.5, 3.0, 2.5):
        noise = 10 ** (-50 / 20) * generator.standard_normal(round(gap * RATE))
        clip = 1e-4 * generator.standard_normal(2 * RATE)
        clip[RATE // 2 : RATE] += 0.1 * generator.standard_normal(RATE // 2)
        pieces += [noise, clip]
        words.append((length + len(noise)) / RATE + 0.5)
        length += len(noise) + len(clip)
    spans = divided(np.concatenate(pieces).astype(np.float32))
    assert [round(start + pauses.EDGE_SECONDS, 1) for start, _ in spans] == [round(word, 1) for word in words]


@pytest.mark.parametrize("noise", [1e-2, 2e-2])
def test_words_just_above_steady_noise_are_sound(noise: float) -> None:
    wave = recording((2.0, 0), (1.0, 0.3), (2.0, 0), (1.0, 2 * noise), (2.0, 0), noise=noise)
    assert [round(start, 1) for start, _ in divided(wave)] == [1.9, 4.9]


def test_a_background_that_is_not_steady_is_told_by_its_quietest_tenth() -> None:
    loudness = np.linspace(-80, -20, 1_000)
    assert pauses.background(loudness, -20.0) == (pytest.approx(-74.0, abs=0.1), pauses.ABOVE_NOISE)
