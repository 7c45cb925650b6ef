"""Pictures of recordings."""

import io

import numpy as np
import pytest

from nota_cli.demo.picture import COLUMNS, ROWS, picture, png, spectrogram, time_ticks

RATE = 16_000


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


def test_a_spectrogram_shows_pitch_and_time() -> None:
    levels = spectrogram(np.concatenate([tone(300), tone(6_000)]))
    assert levels.shape == (ROWS, COLUMNS)
    assert (levels.min(), levels.max()) == (0.0, 1.0)
    low, high = levels[:, COLUMNS // 4].argmax(), levels[:, 3 * COLUMNS // 4].argmax()
    assert low > ROWS * 0.75
    assert high < ROWS * 0.2


def test_a_png_is_read_back() -> None:
    image = pytest.importorskip("PIL.Image")
    levels = np.linspace(0, 1, 12).reshape(3, 4)
    drawn = image.open(io.BytesIO(png(levels)))
    assert drawn.size == (4, 3)
    brightness = np.asarray(drawn.convert("L"), dtype=int).ravel()
    assert (np.diff(brightness) > 0).all()


@pytest.mark.parametrize("samples", [1, 100, 5 * RATE])
def test_a_figure_of_any_length_is_small_and_names_the_recording(samples: int) -> None:
    drawn = picture(tone(500, samples / RATE) + np.float32(0.001), '<b>"x".wav')
    assert "&lt;b&gt;&quot;x&quot;.wav" in drawn
    assert "<b>&quot;" not in drawn
    assert len(drawn) < 120_000


def test_silence_is_drawn_too() -> None:
    assert "nan" not in picture(np.zeros(RATE, np.float32), "silence")


def test_ticks() -> None:
    assert time_ticks(2.0) == ["0.0", "0.5", "1.0", "1.5", "2.0 s"]
    assert time_ticks(40.0)[-1] == "40 s"
