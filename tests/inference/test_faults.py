"""Every kind of bad audio in one test set, through the command line: all named, nothing lost, nothing half-written."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers.audio import write

Run = Callable[..., int]

TOLD_BY_HEADERS = {
    "gone.wav": "no such file",
    "folder.wav": "a folder",
    "empty.wav": "the file is empty",
    "page.wav": "a web page",
    "none.wav": "no samples",
    "cut.wav": "truncated",
    "circle.wav": "symbolic links",
    "pipe.wav": "a pipe",
    "absurd.wav": "absurd.wav",
    "../outside.wav": "outside the audio root",
    "caf\udce9.wav": "no such file",
}
TOLD_BY_DECODING = {"nan.wav": "NaN or infinite", "body.flac": "again"}
ALL_BAD = {**TOLD_BY_HEADERS, **TOLD_BY_DECODING}
UNUSUAL = ["array.wav", "flac.mp3", "byte\udcff.wav", "hours.wav"]


@pytest.fixture
def audio(clips: Path, tmp_path: Path) -> Path:
    """A folder with good, unusual and bad files."""
    folder = tmp_path / "audio"
    folder.mkdir()
    for name in ("c0", "c1", "c2"):
        os.link(clips / "audio" / f"{name}.wav", folder / f"{name}.wav")
    noise = 0.1 * np.random.default_rng(0).standard_normal(32_000)
    write(folder / "array.wav", 0.1 * np.ones((192_000, 24)), 192_000)
    write(folder / "a.flac", noise).rename(folder / "flac.mp3")
    write(folder / "b.wav", noise).rename(Path(os.fsdecode(os.fsencode(folder) + b"/byte\xff.wav")))
    hours = bytearray(write(folder / "hours.wav", np.zeros(1), 8_000).read_bytes()[:44])
    hours[4:8], hours[40:44] = (36 + 576_000_000).to_bytes(4, "little"), (576_000_000).to_bytes(4, "little")
    with (folder / "hours.wav").open("wb") as file:
        file.write(hours)
        file.truncate(44 + 576_000_000)  # ten hours of zeros that take no room

    (folder / "folder.wav").mkdir()
    (folder / "empty.wav").touch()
    (folder / "page.wav").write_text("<html>404</html>" * 9)
    write(folder / "none.wav", np.zeros(0))
    write(tmp_path / "outside.wav", noise)
    cut = write(folder / "cut.wav", noise)
    cut.write_bytes(cut.read_bytes()[:9_000])
    (folder / "circle.wav").symlink_to(folder / "circle.wav")
    os.mkfifo(folder / "pipe.wav")
    absurd = write(folder / "absurd.wav", noise)
    content = bytearray(absurd.read_bytes())
    content[24:28] = (2_000_000_000).to_bytes(4, "little")
    absurd.write_bytes(content)
    write(folder / "nan.wav", np.full(16_000, np.nan), subtype="FLOAT")
    body = write(folder / "body.flac", noise)
    body.write_bytes(body.read_bytes()[: -body.stat().st_size // 2])
    return folder


def annotation(folder: Path, names: list[str]) -> Path:
    rows = [{"path": name, "task": "asr", "testset_id": f"test{index:04d}"} for index, name in enumerate(names)]
    path = folder.parent / "rows.json"
    path.write_text(json.dumps({"annotation": rows}))
    return path


def texts(out: Path) -> dict[str, str]:
    with out.open(newline="") as file:
        return {row["testset_id"]: row["text"] for row in csv.DictReader(file)}


def names_with(*bad: str) -> list[str]:
    """Good files and the bad ones among them."""
    names = ["c0.wav", "c1.wav", *UNUSUAL, "c2.wav"]
    for place, name in enumerate(bad):
        names.insert(1 + 2 * place % len(names), name)
    return names


def test_stop_names_every_bad_file_before_it_begins(
    nota: Run, tiny_checkpoint: Path, audio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = names_with(*ALL_BAD)
    out = audio.parent / "o.csv"
    how = ["--checkpoint", tiny_checkpoint, "--annotation", annotation(audio, names), "--audio-root", audio]
    assert nota("infer", *how, "--out", out) == 1
    said = capsys.readouterr().err
    said.encode()
    lines = said.splitlines()
    for name, reason in TOLD_BY_HEADERS.items():
        told = [line for line in lines if f"row {names.index(name)}:" in line]
        assert len(told) == 1, name
        assert reason in told[0]
        assert f"test{names.index(name):04d}" in told[0]
    assert "Traceback" not in said
    assert f"{len(TOLD_BY_HEADERS)} rows" in said
    assert not out.exists()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("wish", ["blank", "skip"])
def test_the_other_rows_get_the_texts_that_they_get_alone(
    wish: str, workers: int, nota: Run, tiny_checkpoint: Path, audio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = names_with(*ALL_BAD)
    good, out = audio.parent / "good.csv", audio.parent / "o.csv"
    how = ["--checkpoint", tiny_checkpoint, "--audio-root", audio, "--workers", workers, "--annotation"]
    assert nota("infer", *how, annotation(audio, names_with()), "--out", good) == 0
    alone = dict(zip(names_with(), texts(good).values(), strict=True))
    capsys.readouterr()
    assert nota("infer", *how, annotation(audio, names), "--out", out, "--on-error", wish) == 0
    said = capsys.readouterr().err
    assert "Traceback" not in said
    report = json.loads(out.with_suffix(".run.json").read_text())
    bad = {each["row"]: each["reason"] for each in report["blank" if wish == "blank" else "skipped"]}
    assert bad.keys() == {names.index(name) for name in ALL_BAD}
    found = texts(out)
    for row, name in enumerate(names):
        text = found.pop(f"test{row:04d}", None)
        if name in ALL_BAD:
            assert ALL_BAD[name] in bad[row]
            assert f"row {row}" in said
            assert bool(text) == (wish == "blank")
        else:
            assert text == alone[name]
    assert not found


def test_what_only_decoding_tells_stops_the_run_and_the_rest_goes_on_once_it_is_mended(
    nota: Run, tiny_checkpoint: Path, audio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = names_with(*TOLD_BY_DECODING)
    good, out = audio.parent / "good.csv", audio.parent / "o.csv"
    arguments = ["infer", "--checkpoint", tiny_checkpoint, "--audio-root", audio, "--batch-size", 1]
    arguments += ["--annotation", annotation(audio, names)]
    for name in TOLD_BY_DECODING:
        assert nota(*arguments, "--out", out) == 1
        said = capsys.readouterr().err
        assert "row" in said
        assert "Traceback" not in said
        assert any(bad in said and reason in said for bad, reason in TOLD_BY_DECODING.items())
        told = next(bad for bad in TOLD_BY_DECODING if bad in said)
        write(audio / told, 0.1 * np.ones(16_000), format="WAV")
        assert name in TOLD_BY_DECODING
        assert not out.exists()
    assert nota(*arguments, "--out", out) == 0
    assert nota(*arguments, "--out", good) == 0
    assert out.read_bytes() == good.read_bytes()


def test_a_hundredth_of_many_rows_is_bad_and_all_of_it_named(
    nota: Run, tiny_checkpoint: Path, audio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["gone.wav" if index % 100 == 7 else "c0.wav" for index in range(100_000)]
    path = annotation(audio, names)
    how = ["--checkpoint", tiny_checkpoint, "--annotation", path, "--audio-root", audio]
    assert nota("infer", *how, "--out", audio.parent / "o.csv") == 1
    said = capsys.readouterr().err
    assert "1000 rows" in said
    assert "99807, 99907" in said
    assert len(said) < 20_000
