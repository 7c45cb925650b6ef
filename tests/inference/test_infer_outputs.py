"""Where `nota infer` writes, what it takes for the same run, and what its report says of clips of unstated length."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from helpers.runs import report, signal_itself
from nota_cli.features.batch import Features
from nota_cli.models.families.salmonn import Salmonn

Run = Callable[..., int]


@pytest.fixture
def arguments(many: Callable, tiny_checkpoint: Path) -> list[object]:
    return ["infer", "--checkpoint", tiny_checkpoint, "--annotation", many(4)]


@pytest.fixture
def cut(start: Callable, many: Callable, tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The checkpoint of a run over `data/rows.json` into `o.csv` that was killed; some rows are finished."""
    own = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, own)
    arguments = ["infer", "--checkpoint", own, "--annotation", many(30), "--batch-size", 1, "--out", tmp_path / "o.csv"]
    assert start(*arguments, prepare=signal_itself(2, signal.SIGKILL)).wait() == -signal.SIGKILL
    return own


@pytest.mark.parametrize("where", ["rows.json", "other/../rows.json", "link.json", "rows.run.json", "rows.csv.journal"])
def test_the_annotation_is_not_written_over(
    where: str, nota: Run, arguments: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotation = arguments[-1]
    (annotation.parent / "other").mkdir()
    (annotation.parent / "link.json").symlink_to(annotation)
    out = annotation.parent / where
    if where.startswith("rows.") and where != "rows.json":
        out = annotation.parent / "rows.csv"
        arguments[-1] = annotation.rename(annotation.parent / where)
    before = arguments[-1].read_bytes()
    assert nota(*arguments, "--out", out, "--restart") == 2
    assert "is the annotation" in capsys.readouterr().err
    assert arguments[-1].read_bytes() == before


def test_a_link_is_followed(nota: Run, arguments: list[object], tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.csv"
    link.symlink_to(tmp_path / "real" / "o.csv")
    assert nota(*arguments, "--out", link) == 0
    assert link.is_symlink()
    assert sorted(path.name for path in (tmp_path / "real").iterdir()) == ["o.csv", "o.run.json"]


@pytest.mark.parametrize("name", ["o.csv", "o.run.json"])
def test_what_cannot_be_written_is_known_before_the_work(
    name: str, nota: Run, arguments: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for make in (Path.mkdir, os.mkfifo):
        make(tmp_path / name)
        assert nota(*arguments, "--out", tmp_path / "o.csv") == 2
        said = capsys.readouterr().err
        assert f"{name}: it is" in said
        assert "recipe random on" not in said
        (tmp_path / name).rmdir() if make is Path.mkdir else (tmp_path / name).unlink()


def test_every_name_has_a_report_of_its_own(nota: Run, arguments: list[object], tmp_path: Path) -> None:
    for name in ("of.v1", "of.v2", "of.csv"):
        assert nota(*arguments, "--out", tmp_path / name) == 0
    assert {path.name for path in tmp_path.glob("*.run.json")} == {
        "of.v1.run.json",
        "of.v2.run.json",
        "of.run.json",
    }


def test_what_kills_have_left_is_swept_up(nota: Run, arguments: list[object], tmp_path: Path) -> None:
    for name in (".o.csv.abcd1234.part", ".o.run.json.x_y_z_12.part"):
        (tmp_path / name).touch()
    (tmp_path / ".other.csv.abcd1234.part").touch()
    assert nota(*arguments, "--out", tmp_path / "o.csv") == 0
    assert [path.name for path in tmp_path.glob(".*.part")] == [".other.csv.abcd1234.part"]


def test_a_checkpoint_by_another_name_is_the_same(
    nota: Run, cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "elsewhere"
    cut.rename(moved)
    (moved / "metrics.json").write_text("{}")  # an evaluation since
    monkeypatch.chdir(tmp_path)
    how = ["--annotation", tmp_path / "data" / "rows.json", "--out", tmp_path / "o.csv"]
    assert nota("infer", "--checkpoint", "elsewhere", *how) == 0
    assert report(tmp_path / "o.csv")["resumed_rows"] >= 2
    first = report(tmp_path / "o.csv")
    assert nota("infer", "--checkpoint", moved, *how) == 0
    for part in ("recipe", "checkpoint"):
        assert report(tmp_path / "o.csv")[part]["hash"] == first[part]["hash"]


def test_rows_and_hash_are_of_the_same_bytes(
    nota: Run, cut: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe can be read once."""
    annotation = tmp_path / "data" / "rows.json"
    content = json.loads(annotation.read_text())
    content["annotation"].reverse()
    pipe = tmp_path / "data" / "pipe.json"

    def through_a_pipe(text: str) -> int:
        os.mkfifo(pipe)
        script = f"import sys; open({str(pipe)!r}, 'w').write(sys.stdin.read())"
        writer = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, text=True)
        writer.stdin.write(text)
        writer.stdin.close()
        try:
            return nota("infer", "--checkpoint", cut, "--annotation", pipe, "--out", tmp_path / "o.csv")
        finally:
            writer.wait()
            pipe.unlink()

    assert through_a_pipe(json.dumps(content)) == 2
    assert "annotation: it was" in capsys.readouterr().err
    assert through_a_pipe(annotation.read_text()) == 0
    assert report(tmp_path / "o.csv")["resumed_rows"] >= 2


def test_a_clip_that_does_not_fit_the_memory_may_be_skipped(
    nota: Run, arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(model: Salmonn, features: Features) -> object:
        if features.log_mel.size(-1) > 200:  # the third clip's 2.3 s
            raise MemoryError
        return encode_batch(model, features)

    encode_batch = Salmonn.encode_batch
    monkeypatch.setattr(Salmonn, "encode_batch", small)
    assert nota(*arguments, "--out", tmp_path / "o.csv", "--on-error", "skip", "--workers", 0) == 0
    found = report(tmp_path / "o.csv")
    assert found["answered"] == 3
    assert [each["row"] for each in found["skipped"]] == [2]
    assert "does not fit the memory" in found["skipped"][0]["reason"]


def test_a_full_screen_is_told_and_the_csv_is_there(start: Callable, arguments: list[object], tmp_path: Path) -> None:
    def full_screen() -> None:
        sys.stdout = open("/dev/full", "w")  # noqa: SIM115  (the process's own, to its end)

    run = start(*arguments, "--out", tmp_path / "o.csv", prepare=full_screen)
    assert run.wait() == 1
    assert "Traceback" not in run.said()
    assert "No space left" in run.said()
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 5


def test_clips_of_unstated_length_are_counted(nota: Run, arguments: list[object], tmp_path: Path) -> None:
    """WAVs as they come out of a pipe: one of 40 s, of which 30 are heard, and one of 2 s."""
    folder = arguments[-1].parent / "audio"
    for name, seconds in (("0.wav", 40), ("1.wav", 2)):
        (folder / name).unlink()
        soundfile.write(folder / name, 0.1 * np.random.default_rng(0).standard_normal(seconds * 16_000), 16_000)
        content = bytearray((folder / name).read_bytes())
        content[4:8] = content[40:44] = b"\xff" * 4
        (folder / name).write_bytes(content)
    assert nota(*arguments, "--out", tmp_path / "o.csv") == 0
    found = report(tmp_path / "o.csv")
    rest = 2.3 + 1.7
    assert found["audio_seconds"] == pytest.approx(42 + rest, abs=0.1)
    assert found["heard_seconds"] == pytest.approx(32 + rest, abs=0.1)
    assert found["cut"] == ["test0100"]
