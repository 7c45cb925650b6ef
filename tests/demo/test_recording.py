"""What a page takes, and what it says of the rest."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from nota_cli.demo.recording import Limits, read_recording, spoken_length
from nota_cli.errors import DataError

LIMITS = Limits(seconds=5.0, megabytes=1)


def noise(path: Path, seconds: float, rate: int = 8_000) -> Path:
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(int(seconds * rate)), rate)
    return path


def test_a_good_recording(tmp_path: Path) -> None:
    recording = read_recording(noise(tmp_path / "a.flac", 2.0), LIMITS)
    assert (recording.name, recording.seconds, recording.notes) == ("a.flac", 2.0, ())
    assert len(recording.waveform) == 32_000


def test_a_silent_recording_is_noted(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "quiet.wav", np.zeros(16_000), 16_000)
    (note,) = read_recording(tmp_path / "quiet.wav", LIMITS).notes
    assert note.startswith("quiet.wav: it is silent")


def files(folder: Path) -> dict[str, Path]:
    made = {name: folder / f"{name}.wav" for name in ("text", "empty", "cut", "big", "gone")}
    made["text"].write_text("no sound at all\n" * 50)
    made["empty"].write_bytes(b"")
    made["cut"].write_bytes(noise(folder / "whole.wav", 1.0).read_bytes()[:30])
    made["big"].write_bytes(b"RIFF" + bytes(1_100_000))
    return {**made, "hour": noise(folder / "hour.flac", 3_600, 1_000)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text", "text.wav: "),
        ("empty", "empty.wav: "),
        ("cut", "cut.wav: "),
        ("big", "big.wav has 1 MB"),
        ("gone", "no longer here"),
        ("hour", "hour.flac is 1 h 0 min long; this page takes recordings of up to 5.0 s"),
    ],
)
def test_messages_are_for_visitors(name: str, message: str, tmp_path: Path) -> None:
    limits = Limits(5.0, 1 if name != "hour" else 50)
    with pytest.raises(DataError) as caught:
        read_recording(files(tmp_path)[name], limits)
    assert message in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_lengths() -> None:
    assert [spoken_length(seconds) for seconds in (4.25, 300, 3_720)] == ["4.2 s", "5 min", "1 h 2 min"]
