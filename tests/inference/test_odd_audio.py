"""Clips without sound, far beyond full scale or damaged: answered as ever, warned of, and named in the report."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nota_cli import AudioLM
from nota_cli.data.annotation import read_annotation
from nota_cli.data.audio.clip import SAMPLE_RATE, AudioNote, load_audio, load_clip
from nota_cli.errors import AudioWarning
from nota_cli.inference.predict import predict
from nota_cli.models.build import build
from nota_cli.recipe.load import load_system

Run = Callable[..., int]
Capture = pytest.CaptureFixture[str]
SOUND = 0.3 * np.sin(np.arange(2 * SAMPLE_RATE) / 7)
NOTHING = np.zeros_like(SOUND)
DITHER = np.random.default_rng(0).integers(-1, 1, len(SOUND), endpoint=False) / 2**15

SILENT = {
    "zeros": (NOTHING, "PCM_16"),
    "float zeros": (NOTHING, "FLOAT"),
    "dither": (DITHER, "PCM_16"),
    "offset": (np.full_like(SOUND, 0.02), "PCM_16"),
    "right only": (np.stack([NOTHING, SOUND], axis=1), "PCM_16"),
    "third of four": (np.stack([NOTHING, NOTHING, SOUND, NOTHING], axis=1), "PCM_24"),
    "scaled twice": (SOUND / 2**15, "FLOAT"),
}
LOUD = {
    "16-bit integers": SOUND * 2**15,
    "24-bit integers": SOUND * 2**23,
    "8-bit integers": SOUND * 2**7,
    "percent": SOUND * 100,
}
USUAL = {
    "sound": (SOUND, "PCM_16"),
    "quiet": (SOUND / 300, "PCM_16"),
    "a click": (np.eye(1, len(SOUND), 9_000)[0] * 0.5, "PCM_16"),
    "mixed too loud": (SOUND * 12, "FLOAT"),
    "left only": (np.stack([SOUND, NOTHING], axis=1), "PCM_16"),
}


def write_as(path: Path, samples: np.ndarray, subtype: str = "PCM_16", rate: int = SAMPLE_RATE) -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def noted(path: Path) -> list[str]:
    notes: list[AudioNote] = []
    load_clip([path], notes=notes)
    assert all(path.name in note.text for note in notes)
    return [note.kind for note in notes]


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("name", SILENT)
def test_silent_clips(tmp_path: Path, name: str, rate: int) -> None:
    assert noted(write_as(tmp_path / "clip.wav", *SILENT[name], rate)) == ["silent"]


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("name", LOUD)
def test_samples_far_beyond_full_scale(tmp_path: Path, name: str, subtype: str) -> None:
    assert noted(write_as(tmp_path / "clip.wav", LOUD[name], subtype)) == ["loud"]


@pytest.mark.parametrize("name", USUAL)
def test_usual_clips_get_no_note(tmp_path: Path, name: str) -> None:
    assert noted(write_as(tmp_path / "clip.wav", *USUAL[name])) == []


def test_a_clip_of_several_files_is_silent_if_all_are(tmp_path: Path) -> None:
    silent, sound = write_as(tmp_path / "silent.wav", NOTHING), write_as(tmp_path / "sound.wav", SOUND)
    for paths, kinds in [([silent, silent], ["silent"]), ([silent, sound], [])]:
        notes: list[AudioNote] = []
        load_clip(paths, notes=notes)
        assert [note.kind for note in notes] == kinds


def test_who_reads_a_file_alone_is_warned(tmp_path: Path) -> None:
    path = write_as(tmp_path / "right.wav", *SILENT["right only"])
    with pytest.warns(AudioWarning, match=r"right\.wav.*first channel"):
        assert not load_audio(path).any()


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """An annotation of odd clips among usual ones."""
    for name, (samples, subtype) in (SILENT | USUAL).items():
        write_as(tmp_path / f"{name}.wav", samples, subtype)
    for name, samples in LOUD.items():
        write_as(tmp_path / f"{name}.wav", samples, "FLOAT")
    write_as(tmp_path / "long.wav", np.concatenate([np.zeros(60 * SAMPLE_RATE), SOUND]))
    names = sorted(path.name for path in tmp_path.glob("*.wav"))
    rows = [{"path": name, "text": "", "task": "asr", "testset_id": name.removesuffix(".wav")} for name in names]
    path = tmp_path / "odd.json"
    path.write_text(json.dumps({"annotation": rows}))
    return path


@pytest.mark.parametrize(("long", "workers"), [("cut", 0), ("cut", 2), ("chunk", 0)])
def test_the_report_names_them_and_one_warning_each(
    nota: Run, tiny_checkpoint: Path, odd: Path, tmp_path: Path, capsys: Capture, long: str, workers: int
) -> None:
    out = tmp_path / "out.csv"
    arguments = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", odd, "--out", out, "--long", long]
    assert nota(*arguments, "--workers", workers) == 0
    report = json.loads(out.with_suffix(".run.json").read_text())
    silent = sorted([*SILENT, "long"] if long == "cut" else SILENT)  # in windows its end is heard
    assert [each["id"] for each in report["silent"]] == silent
    assert [each["id"] for each in report["loud"]] == sorted(LOUD)
    assert report["damaged"] == []
    assert all(f"{each['id']}.wav" in each["reason"] for each in report["silent"] + report["loud"])
    assert report["answered"] == report["rows"]
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    (about_silent,) = [line for line in warnings if "silent" in line]
    (about_loud,) = [line for line in warnings if "full scale" in line]
    assert f"{len(silent)} rows ({', '.join(silent)})" in about_silent
    assert "4 rows (16-bit integers, " in about_loud


def test_rows_that_are_kept_from_a_cut_run_stay_named(
    nota: Run, tiny_checkpoint: Path, odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.csv"
    arguments = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", odd, "--out", out, "--batch-size", 2]

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("nota_cli.inference.run.write_submission", fail)
        assert nota(*arguments) != 0
    assert nota(*arguments) == 0
    report = json.loads(out.with_suffix(".run.json").read_text())
    assert report["resumed_rows"] == report["rows"]
    assert [each["id"] for each in report["silent"]] == sorted([*SILENT, "long"])


def test_predict_and_the_python_api_warn(tiny_checkpoint: Path, odd: Path) -> None:
    rows = [row for row in read_annotation(odd) if row.path in ("zeros.wav", "sound.wav", "percent.wav")]
    with pytest.warns(AudioWarning) as caught:
        predict(build(load_system(str(tiny_checkpoint), None, []), "cpu"), rows, odd.parent)
    assert len([each for each in caught if each.category is AudioWarning]) == 2
    model = AudioLM.from_pretrained(tiny_checkpoint)
    with pytest.warns(AudioWarning, match=r"zeros\.wav.*silent"):
        model.transcribe(odd.parent / "zeros.wav")
    with pytest.warns(AudioWarning, match=r"percent\.wav"):
        model.load_recording(odd.parent / "percent.wav")
    with pytest.warns(AudioWarning, match=r"long\.wav.*silent"):
        model.caption(odd.parent / "long.wav")


def test_chat_warns(nota: Run, tiny_checkpoint: Path, odd: Path, capsys: Capture) -> None:
    assert nota("chat", odd.parent / "right only.wav", "-r", tiny_checkpoint, "--prompt", "/asr") == 0
    assert "warning: " in (err := capsys.readouterr().err)
    assert "right only.wav: the first channel" in err
