"""`nota transcribe --format`: subtitles and segments of long recordings."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pysubs2
import pytest
import soundfile

from nota_cli.assets import home

Nota = Callable[..., int]
Capture = pytest.CaptureFixture[str]
SAMPLES = home() / "checkpoints" / "tiny" / "samples" / "audio"
DIGITS = {"digits-371": "three seven one", "digits-90": "nine zero", "digits-666": "six six six"}


@pytest.fixture
def talk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """`talk.wav`: three clips with pauses of 12 s in 44 s, more than is heard at once; where each begins and ends."""
    monkeypatch.chdir(tmp_path)
    pieces, spans, length = [], [], 0
    for name in DIGITS:
        wave, _ = soundfile.read(SAMPLES / f"{name}.flac")
        pieces += [1e-4 * np.random.default_rng(length).standard_normal(12 * 16_000), wave]
        spans.append((length / 16_000 + 12, (length + len(wave)) / 16_000 + 12))
        length += 12 * 16_000 + len(wave)
    soundfile.write("talk.wav", np.concatenate(pieces), 16_000)
    return spans


def test_segments_have_their_texts_and_times(nota: Nota, talk: list[tuple[float, float]], capsys: Capture) -> None:
    assert nota("transcribe", "talk.wav", "--format", "json") == 0
    (entry,) = json.loads(capsys.readouterr().out)["files"]
    assert [part["text"] for part in entry["segments"]] == list(DIGITS.values())
    assert entry["text"] == " ".join(DIGITS.values())
    for part, (start, stop) in zip(entry["segments"], talk, strict=True):
        assert (part["start"], part["end"]) == pytest.approx((start, stop), abs=0.3)
    assert nota("transcribe", "talk.wav") == 0
    assert capsys.readouterr().out.strip() == entry["text"]


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitles(form: str, nota: Nota, talk: list[tuple[float, float]], capsys: Capture) -> None:
    assert nota("transcribe", "talk.wav", "-f", form) == 0
    text = capsys.readouterr().out
    read = pysubs2.SSAFile.from_string(text, format_=form)
    assert [event.plaintext for event in read] == list(DIGITS.values())
    assert nota("transcribe", "talk.wav", SAMPLES / "digits-8049.flac", "-f", form, "--out", "subs") == 0
    assert sorted(path.name for path in Path("subs").iterdir()) == [f"digits-8049.{form}", f"talk.{form}"]
    assert Path("subs", f"talk.{form}").read_text() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["talk.wav", "-f", "srt", "--json"], "--json and --format srt"),
        (["talk.wav", "-f", "vtt", "--long", "cut"], "leave --long cut out"),
        (["talk.wav", "--out", "subs"], "add --format srt"),
        (["talk.wav", str(SAMPLES / "digits-90.flac"), "-f", "srt"], "--out"),
        (["talk.wav", "-f", "srt", "--out", "full"], "talk.srt is there"),
        (["talk.wav", "-f", "doc"], "'doc' is not one of"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "",
)
def test_wrong_use(
    arguments: list[str], message: str, nota: Nota, talk: list[tuple[float, float]], capsys: Capture
) -> None:
    Path("full").mkdir()
    Path("full", "talk.srt").write_text("mine")
    assert nota("transcribe", *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert Path("full", "talk.srt").read_text() == "mine"
