import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nota_cli.data.annotation import read_annotation
from nota_cli.data.tools.check import check_rows, counts

RATE = 16_000
GOOD = 20


def noise(seconds: float = 2.0, seed: int = 0, rate: int = RATE) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.05, int(seconds * rate)).astype(np.float32)


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Path, dict[str, int]]:
    """Good rows, and one of each kind of fault among them: the annotation, and the faults' rows."""
    rows = []
    faults: dict[str, int] = {}

    def add(wave: np.ndarray | None, text: str = "two words", rate: int = RATE, kind: str = "", **more: object) -> None:
        name = f"{len(rows)}.wav"
        if wave is not None:
            soundfile.write(tmp_path / name, wave, rate)
        if kind:
            faults[kind] = len(rows)
        rows.append({"path": name, "text": text, "task": "asr", **more})

    for seed in range(GOOD):
        add(noise(seed=seed))
    add(None, kind="missing")
    add(None, kind="unreadable")
    (tmp_path / rows[-1]["path"]).write_text("<html>not a sound</html>")
    add(noise(seed=50), kind="truncated")
    path = tmp_path / rows[-1]["path"]
    path.write_bytes(path.read_bytes()[:-9_000])
    add(noise(31.0, seed=51), text=" ".join(f"word{n}" for n in range(40)), kind="long")
    add(noise(0.05, seed=52), text="a", kind="short")
    add(np.stack([noise(seed=53)] * 2, axis=1), kind="channels")
    add(noise(seed=54, rate=8_000), rate=8_000, kind="rate")
    add(np.clip(noise(seed=55) * 60, -1, 1), kind="clipped")
    add(noise(seed=56) + 0.1, kind="offset")
    add(np.zeros(2 * RATE, np.float32), kind="silent")
    add(noise(seed=57), text="", kind="empty text")
    add(None, kind="same row")
    rows[-1] = dict(rows[0])
    add(noise(seed=58), text="a dog barks while the rain falls")
    add(noise(seed=59), text="A dog  barks while the rain falls", kind="same text")
    add(noise(seed=60), kind="leak")
    add(noise(seed=61), text=" ".join(["word"] * 40 + ["x"]), kind="text too long")
    add(noise(11.0, seed=62), text="well", kind="text too short")
    file = tmp_path / "all.json"
    file.write_text(json.dumps({"annotation": rows}))
    other = tmp_path / "other"
    other.mkdir()
    wave, _ = soundfile.read(tmp_path / rows[faults["leak"]]["path"], dtype="float32")
    soundfile.write(other / "copy.flac", wave, RATE)  # in another format, under another name
    soundfile.write(other / "own.wav", noise(seed=99), RATE)
    test = [{"path": name, "text": "x", "task": "asr"} for name in ("own.wav", "copy.flac")]
    (other / "test.json").write_text(json.dumps({"annotation": test}))
    return file, faults


def test_every_kind_of_fault_is_named_and_nothing_else(planted: tuple[Path, dict[str, int]]) -> None:
    file, faults = planted
    other = file.parent / "other"
    against = read_annotation(other / "test.json")
    findings = check_rows(read_annotation(file), file.parent, full=True, against=against, against_root=other, workers=2)
    assert {each.kind: each.row for each in findings} == faults
    assert counts(findings) == dict.fromkeys(counts(findings), 1)
    assert len(findings) == len(faults) == 16


def test_headers_and_texts_alone_tell_most(planted: tuple[Path, dict[str, int]]) -> None:
    file, faults = planted
    done: list[int] = []
    findings = check_rows(read_annotation(file), file.parent, on_progress=done.append)
    samples = {"clipped", "offset", "silent", "leak"}
    assert {each.kind: each.row for each in findings} == {
        kind: row for kind, row in faults.items() if kind not in samples
    }
    assert sum(done) == len(read_annotation(file))


def test_the_command(
    nota: Callable[..., int], planted: tuple[Path, dict[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    file, faults = planted
    out = file.parent / "good.json"
    arguments = ["data", "check", file, "--full", "--against", file.parent / "other" / "test.json"]
    assert nota(*arguments, "--json", "--drop-bad", out) == 1
    report = json.loads(capsys.readouterr().out)
    assert {each["kind"]: each["row"] for each in report["findings"]} == faults
    kept = read_annotation(out)
    assert len(kept) == report["usable"] == report["rows"] - 7
    assert nota("data", "check", out, "--full") == 1  # what can be used is not all as it should be
    assert nota(*arguments) == 1
    assert "leak" in capsys.readouterr().out
    assert nota("data", "check", file, "--drop-bad", file) == 2


def test_a_good_set_exits_with_0(nota: Callable[..., int], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", noise(), RATE)
    (tmp_path / "a.json").write_text(
        json.dumps({"annotation": [{"path": "a.flac", "text": "hello you", "task": "asr"}]})
    )
    assert nota("data", "check", tmp_path / "a.json", "--full") == 0
    assert nota("data", "check", tmp_path / "b.json") == 2
