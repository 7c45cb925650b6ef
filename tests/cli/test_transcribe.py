"""`nota transcribe`, `nota caption`, and `nota infer` over recordings without an annotation."""

import contextlib
import csv
import io
import json
import os
import pty
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from helpers.paths import REPOSITORY
from nota_cli import AudioLM
from nota_cli.inference.journal import journal_path
from nota_cli.inference.long_audio import join

SAMPLES = REPOSITORY / "checkpoints" / "tiny" / "samples" / "audio"

Nota = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> AudioLM:
    return AudioLM.from_pretrained(tiny_checkpoint)


@pytest.fixture
def folder(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: `calls/` with five recordings and a text file."""
    shutil.copytree(clips / "audio", tmp_path / "calls")
    (tmp_path / "calls" / "notes.txt").write_text("call back")
    monkeypatch.chdir(tmp_path)
    return tmp_path


FIVE = [f"calls/c{index}.wav" for index in range(5)]


def texts(out: Path) -> dict[str, str]:
    with out.open(newline="", encoding="utf-8") as file:
        return {row["testset_id"]: row["text"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("command", ["transcribe", "caption"])
def test_one_file_gives_its_text_alone(
    command: str, nota: Nota, tiny_checkpoint: Path, model: AudioLM, folder: Path, capsys: Capture
) -> None:
    for file in FIVE[:2]:
        assert nota(command, file, "--checkpoint", tiny_checkpoint) == 0
        captured = capsys.readouterr()
        assert captured.out == getattr(model, command)(file) + "\n"
        assert captured.err.startswith("loading recipe random ...")


@pytest.mark.parametrize(
    "words", [FIVE, ["calls"], ["calls/*.wav"], ["calls/*"], ["**/c?.wav"], [FIVE[0], "calls"]], ids=str
)
@pytest.mark.parametrize("command", ["transcribe", "caption"])
def test_several_give_a_line_each(
    command: str,
    words: list[str],
    nota: Nota,
    tiny_checkpoint: Path,
    model: AudioLM,
    folder: Path,
    capsys: Capture,
) -> None:
    assert nota(command, *words, "-r", tiny_checkpoint) == 0
    captured = capsys.readouterr()
    expected = getattr(model, command)(FIVE)
    assert captured.out.splitlines() == [f"{file}\t{text}" for file, text in zip(FIVE, expected, strict=True)]
    passed_over = "calls" in words or "calls/*" in words
    assert ("1 file is not a recording and is skipped: calls/notes.txt" in captured.err) is passed_over


def test_json(nota: Nota, tiny_checkpoint: Path, model: AudioLM, folder: Path, capsys: Capture) -> None:
    assert nota("transcribe", FIVE[3], "-r", tiny_checkpoint, "--json") == 0
    text = model.transcribe(FIVE[3])
    assert json.loads(capsys.readouterr().out) == {"task": "asr", "files": [{"file": FIVE[3], "text": text}]}
    assert nota("caption", "none.wav", FIVE[3], "calls/notes.txt", "-r", tiny_checkpoint, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == "aac"
    assert [entry["file"] for entry in found["files"]] == ["none.wav", FIVE[3], "calls/notes.txt"]
    assert "no such file" in found["files"][0]["error"]
    assert found["files"][1]["text"] == model.caption(FIVE[3])
    assert "not audio" in found["files"][2]["error"]


def test_bad_files_are_named_and_the_others_done(
    nota: Nota, tiny_checkpoint: Path, model: AudioLM, folder: Path, capsys: Capture
) -> None:
    (folder / "damaged.wav").write_bytes((folder / FIVE[0]).read_bytes()[:3_000])
    (folder / "broken.flac").write_bytes(b"")
    soundfile.write(folder / "nan.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")  # shows when it is decoded
    bad = ["damaged.wav", "broken.flac", "nan.wav", "none.wav", "calls/notes.txt"]
    words = [bad[0], FIVE[1], *bad[1:3], FIVE[2], *bad[3:]]
    assert nota("transcribe", *words, "-r", tiny_checkpoint) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [f"{file}\t{model.transcribe(file)}" for file in FIVE[1:3]]
    for file in bad:
        assert captured.err.count(f"error: {file}: ") == 1
    assert "5 of 7 recordings cannot be used" in captured.err
    assert "annotation" not in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("file", ["none.wav", "calls/notes.txt", "nan.wav"])
def test_one_bad_file_is_one_error(file: str, nota: Nota, tiny_checkpoint: Path, folder: Path, capsys: Capture) -> None:
    soundfile.write(folder / "nan.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    assert nota("caption", file, "-r", tiny_checkpoint) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("error:") == 1
    assert f"error: {file}: " in captured.err


def piped(content: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content))


def test_stdin(
    nota: Nota,
    tiny_checkpoint: Path,
    model: AudioLM,
    folder: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for file in (FIVE[2], FIVE[4]):
        monkeypatch.setattr("sys.stdin", piped((folder / file).read_bytes()))
        assert nota("transcribe", "-", "-r", tiny_checkpoint) == 0
        assert capsys.readouterr().out == model.transcribe(file) + "\n"
    monkeypatch.setattr("sys.stdin", piped((folder / FIVE[2]).read_bytes()))
    assert nota("infer", "-", "--task", "aac", "-r", tiny_checkpoint, "--out", "o.csv") == 0
    assert texts(folder / "o.csv") == {"-": model.caption(FIVE[2]).lower()}
    capsys.readouterr()
    for content, reason in ((b"", "empty"), (b"no sound at all, only words", "not audio")):
        for command in (["transcribe", "-"], ["infer", "-", "--task", "asr", "--out", "x.csv"]):
            monkeypatch.setattr("sys.stdin", piped(content))
            assert nota(*command, "-r", tiny_checkpoint) == 1
            captured = capsys.readouterr()
            assert reason in captured.err
            assert " -: " in captured.err
            assert captured.out == ""


@pytest.mark.parametrize("ffmpeg", [True, False])
@pytest.mark.parametrize("command", [["transcribe"], ["caption"], ["infer", "--task", "asr", "--out", "o.csv"]])
def test_an_m4a(
    command: list[str],
    ffmpeg: bool,
    nota: Nota,
    tiny_checkpoint: Path,
    folder: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg to make an M4A")
    make = ["ffmpeg", "-v", "error", "-i", FIVE[4], "-c:a", "aac", "my.m4a"]
    subprocess.run(make, check=True, stdin=subprocess.DEVNULL)
    if not ffmpeg:
        monkeypatch.setenv("PATH", str(folder))
    status = nota(*command, "my.m4a", "-r", tiny_checkpoint)
    captured = capsys.readouterr()
    if status == 0:  # a decoder for it is here
        assert ffmpeg
        assert command[0] == "infer" or captured.out.strip()
        return
    assert status == 1
    assert captured.out == ""
    assert "my.m4a: " in captured.err
    assert "M4A" in captured.err
    assert "annotation" not in captured.err
    assert not (folder / "o.csv").exists()


def test_long_recordings(nota: Nota, tiny_checkpoint: Path, folder: Path, capsys: Capture) -> None:
    (folder / "calls" / "notes.txt").unlink()
    wave = 0.2 * np.random.default_rng(0).standard_normal(int(4.1 * 16_000))
    soundfile.write(folder / "long.wav", wave, 16_000)
    settings = ["audio.max_seconds=1.5"]
    arguments = ["-r", tiny_checkpoint, "--set", *settings]
    model = AudioLM.from_pretrained(tiny_checkpoint, settings=settings)
    parts = []
    for number, start in enumerate((0.0, 1.25, 2.5, 3.75)):
        soundfile.write(folder / f"{number}.wav", wave[round(start * 16_000) :][:24_000], 16_000)
        parts.append(model.transcribe(folder / f"{number}.wav"))
    assert nota("transcribe", "long.wav", *arguments) == 0
    assert capsys.readouterr().out.strip() == join(parts)
    assert nota("transcribe", "long.wav", FIVE[1], *arguments, "--long", "cut") == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == f"long.wav\t{parts[0]}"
    assert "only the first 1.5 s are heard of long.wav\n" in captured.err
    assert nota("caption", "long.wav", "calls", *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["long.wav", *FIVE]
    assert lines[0].split("\t")[1] == model.caption("long.wav", long="chunk")


def test_infer_over_recordings(
    nota: Nota, tiny_checkpoint: Path, model: AudioLM, folder: Path, capsys: Capture
) -> None:
    expected = {file: text.lower() for file, text in zip(FIVE, model.transcribe(FIVE), strict=True)}
    arguments = ["--task", "asr", "-r", tiny_checkpoint]
    for number, words in enumerate((FIVE, ["calls"], ["calls/*.wav"])):
        out = folder / f"{number}.csv"
        assert nota("infer", *words, *arguments, "--out", out) == 0
        assert texts(out) == expected
        assert list(texts(out)) == FIVE
        report = json.loads(out.with_suffix(".run.json").read_text())
        assert report["rows"] == report["answered"] == 5
    assert nota("infer", FIVE[3], *arguments) == 0
    assert texts(folder / "random-asr.csv") == {FIVE[3]: expected[FIVE[3]]}
    assert nota("infer", "calls", *arguments, "--limit", 2, "--out", "two.csv") == 0
    assert list(texts(folder / "two.csv")) == FIVE[:2]
    absolute, above = str(folder / FIVE[1]), f"../{folder.name}/{FIVE[2]}"
    assert nota("infer", absolute, above, *arguments, "--out", "other.csv") == 0
    assert texts(folder / "other.csv") == {absolute: expected[FIVE[1]], above: expected[FIVE[2]]}


def test_infer_over_bad_recordings(nota: Nota, tiny_checkpoint: Path, folder: Path, capsys: Capture) -> None:
    soundfile.write(folder / "calls" / "nan.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    (folder / "calls" / "empty.wav").write_bytes(b"")
    arguments = ["infer", "calls", "none.wav", "--task", "aac", "-r", tiny_checkpoint, "--out", "o.csv"]
    assert nota(*arguments) == 1
    message = capsys.readouterr().err
    assert "2 recordings cannot be used:\n  - calls/empty.wav: the file is empty" in message
    assert "none.wav: no such file. Check the path.\n" in message
    assert "annotation" not in message
    assert "--on-error skip" in message
    assert not (folder / "o.csv").exists()
    assert nota(*arguments, "--on-error", "skip") == 0
    assert list(texts(folder / "o.csv")) == FIVE
    assert "calls/nan.wav is left out: calls/nan.wav: holds samples" in capsys.readouterr().err


def test_infer_over_recordings_goes_on_where_it_was_cut(
    nota: Nota, tiny_checkpoint: Path, folder: Path, capsys: Capture
) -> None:
    soundfile.write(folder / "calls" / "nan.wav", np.full(1_600, np.nan), 16_000, subtype="FLOAT")  # heard last
    arguments = ["infer", "calls", "--task", "asr", "-r", tiny_checkpoint, "--out", "o.csv", "--batch-size", 1]
    assert nota(*arguments) == 1
    assert journal_path(folder / "o.csv").exists()
    soundfile.write(folder / "calls" / "nan.wav", np.full(1_600, 0.1), 16_000)
    assert nota(*arguments) == 0
    assert "5 of 6 rows were finished before" in capsys.readouterr().err
    assert list(texts(folder / "o.csv")) == [*FIVE, "calls/nan.wav"]
    soundfile.write(folder / "calls" / "nan.wav", np.full(1_600, np.nan), 16_000, subtype="FLOAT")
    os.replace("o.csv", "old.csv")
    assert nota(*arguments) == 1
    shutil.copy(folder / FIVE[0], folder / "calls" / "new.wav")
    capsys.readouterr()
    assert nota(*arguments) == 2
    assert "- recording_names: it was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["infer", "calls"], "--task asr (what is said) or --task aac"),
        (["infer", "calls", "--task", "qa"], "nota chat FILE --prompt"),
        (["infer", "calls", "--task", "asr", "--annotation", "rows.json"], "either recordings or --annotation"),
        (["infer", "--audio-root", "calls"], "nota infer calls --task asr"),
        (["infer", "--audio-root", "calls", "--task", "aac"], "nota infer calls --task aac"),
        (["infer", "calls", "--audio-root", "calls", "--task", "asr"], "--audio-root"),
        (["infer"], "--task asr or --task aac for the recipe's own test set, recordings"),
        (["infer", "rows.json", "--task", "asr"], "nota infer --annotation rows.json"),
        (["infer", "none*.wav", "--task", "asr"], "none*.wav: no such file"),
        (["transcribe"], "Missing argument"),
        (["transcribe", "empty"], "no recording in the folder empty"),
        (["caption", "calls/*.mp3"], "calls/*.mp3: no such file"),
        (["transcribe", "calls", "--long", "all"], "'all' is not one of"),
        (["caption", "calls", "--load-format", "random"], "Invalid value for '--load-format'"),
        (["transcribe", "calls", "--recipe", "tinny"], "did you mean tiny"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use(arguments: list[str], message: str, nota: Nota, folder: Path, capsys: Capture) -> None:
    (folder / "empty").mkdir()
    (folder / "rows.json").write_text("{}")
    before = sorted(folder.rglob("*"))
    assert nota(*arguments) == 2
    captured = capsys.readouterr()
    assert message in " ".join(captured.err.split())
    assert captured.out == ""
    assert "None" not in captured.err
    assert sorted(folder.rglob("*")) == before


def test_the_shipped_model_with_no_other_flag(nota: Nota, capsys: Capture) -> None:
    assert nota("transcribe", SAMPLES / "digits-371.flac", SAMPLES / "digits-90.flac") == 0
    captured = capsys.readouterr()
    assert [line.split("\t")[1] for line in captured.out.splitlines()] == ["three seven one", "nine zero"]
    assert captured.err.startswith("loading recipe tiny, the small model that ships with nota")
    assert nota("caption", SAMPLES / "chainsaw.flac") == 0
    assert "chainsaw" in capsys.readouterr().out


def test_results_go_to_stdout_even_under_a_progress_bar(tiny_checkpoint: Path, folder: Path, model: AudioLM) -> None:
    """With stderr a terminal the bar is live, and must not take stdout's lines for its own."""
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "nota_cli.cli", "transcribe", *FIVE[:2], "-r", str(tiny_checkpoint)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    shown = bytearray()

    def drain() -> None:  # or the terminal's buffer would fill up, and the command wait for ever
        with contextlib.suppress(OSError):  # what a terminal without a process gives
            while block := os.read(main, 4096):
                shown.extend(block)

    reader = threading.Thread(target=drain)
    reader.start()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, check=True, text=True, env=environment)
    os.close(terminal)
    reader.join()
    os.close(main)
    assert done.stdout.splitlines() == [f"{file}\t{model.transcribe(file)}" for file in FIVE[:2]]
    assert b"2/2" in shown
