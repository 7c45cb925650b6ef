import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from helpers.paths import SHARED
from nota_cli.data.tools.flac import targets, to_flac
from nota_cli.errors import NotaError

RATE = 16_000


def wave(seconds: float = 1.0) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.1, int(seconds * RATE))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    soundfile.write(root / "sub" / "same.wav", wave(), RATE, subtype="PCM_16")
    soundfile.write(root / "fine.wav", wave(), RATE, subtype="PCM_24")
    soundfile.write(root / "stereo.wav", np.stack([wave(), wave() * 0], 1), RATE, subtype="PCM_16")
    soundfile.write(root / "other.wav", wave(), 44_100, subtype="PCM_16")
    soundfile.write(root / "float.wav", wave(), RATE, subtype="FLOAT")
    soundfile.write(root / "cut.wav", wave(), RATE)
    (root / "cut.wav").write_bytes((root / "cut.wav").read_bytes()[:-9_001])
    return root


def test_samples_stay_where_nothing_is_resampled(folder: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*.wav")}
    pairs = list(targets(sorted(folder.rglob("*.wav")), folder, tmp_path / "out"))
    results = {each.source.name: each for each in to_flac(pairs, workers=2)}
    assert {name: each.exact for name, each in results.items()} == {
        **{"same.wav": True, "fine.wav": True, "stereo.wav": True},
        **{"other.wav": None, "float.wav": None, "cut.wav": None},
    }
    assert results["cut.wav"].status == "failed"
    assert "truncated" in results["cut.wav"].problem
    assert not results["cut.wav"].target.exists()
    for name, column in (("sub/same", None), ("fine", None), ("stereo", 0)):
        own, _ = soundfile.read(folder / f"{name}.wav", dtype="int32")
        new, rate = soundfile.read(tmp_path / "out" / f"{name}.flac", dtype="int32")
        assert rate == RATE
        assert np.array_equal(own if column is None else own[:, column], new)
    assert before == {path: path.read_bytes() for path in folder.rglob("*.wav")}
    assert soundfile.info(tmp_path / "out" / "other.flac").frames == pytest.approx(RATE * RATE / 44_100, abs=2)


def test_what_is_there_is_kept(folder: Path, tmp_path: Path) -> None:
    pairs = list(targets([folder / "fine.wav"], folder, tmp_path / "out"))
    (first,) = to_flac(pairs)
    data = first.target.read_bytes()
    (again,) = to_flac(pairs)
    assert (first.status, again.status) == ("written", "kept")
    assert again.target.read_bytes() == data
    assert again.seconds == first.seconds


def test_names_that_would_meet(folder: Path, tmp_path: Path) -> None:
    soundfile.write(folder / "fine.flac", wave(), RATE)
    with pytest.raises(NotaError, match="would both be"):
        list(targets([folder / "fine.flac", folder / "fine.wav"], folder, tmp_path / "out"))
    with pytest.raises(NotaError, match="written over itself"):
        list(targets([folder / "fine.flac"], folder, folder))


def test_the_command(
    nota: Callable[..., int], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"path": "sub/same.wav", "text": "x", "task": "asr", "expand_wav": ["fine.wav"]}]
    (tmp_path / "a.json").write_text(json.dumps({"annotation": rows}))
    arguments = ["data", "to-flac", folder, "--out", tmp_path / "out", "--annotation", tmp_path / "a.json"]
    assert nota(*arguments) == 1
    assert "truncated" in capsys.readouterr().err
    (folder / "cut.wav").unlink()
    assert nota(*arguments) == 0
    (row,) = json.loads((tmp_path / "out" / "a.json").read_text())["annotation"]
    assert (row["path"], row["expand_wav"]) == ("sub/same.flac", ["fine.flac"])
    assert nota("data", "to-flac", tmp_path / "nothing", "--out", tmp_path / "out") == 2


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the recordings in {SHARED}")
def test_real_recordings(tmp_path: Path) -> None:
    sources = sorted((SHARED / "data" / "fsdd").rglob("*.wav"))[:20]
    for each in to_flac([(path, tmp_path / f"{path.stem}.flac") for path in sources]):
        assert each.status == "written"
        assert soundfile.info(each.target).samplerate == RATE
