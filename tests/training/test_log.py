"""What a run leaves to look at."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest

from nota_cli.errors import RecipeError
from nota_cli.recipe.load import load_recipe
from nota_cli.training.log import Log
from nota_cli.training.loop import train


def test_a_run_leaves_its_figures_a_picture_and_a_summary(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nota_cli.training.loop.LOG_EVERY", 2)
    done = train(load_recipe(str(tiny_recipe)), tmp_path)
    entries = [json.loads(line) for line in (tmp_path / "trainer" / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if "loss" in entry] == [2, 4, 6]
    assert {"learning_rate", "gradient_norm", "clips_per_second", "data_wait"} <= set(entries[0])
    assert {"wer", "cider_d", "validation_loss"} <= set(entries[-1])
    summary = json.loads((tmp_path / "trainer" / "summary.json").read_text())
    assert summary == {"first": 0, **done.summary}
    assert summary["steps"] == 6
    assert summary["clips_per_second"] * summary["seconds"] == pytest.approx(18, rel=0.2)
    assert summary["audio_seconds_per_second"] > summary["clips_per_second"]
    assert 0 <= summary["data_wait"] <= 1
    pytest.importorskip("matplotlib")
    assert (tmp_path / "trainer" / "metrics.png").read_bytes().startswith(b"\x89PNG")


def test_entries_after_the_step_that_is_resumed_are_dropped(tmp_path: Path) -> None:
    log = Log(tmp_path / "metrics.jsonl", 0, True)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": 1.0})
    assert [entry["step"] for entry in Log(tmp_path / "metrics.jsonl", 2, True).entries()] == [1, 2]
    Log(tmp_path / "other.jsonl", 0, False).write({"step": 1})
    assert not (tmp_path / "other.jsonl").exists()


def test_tensorboard_is_given_the_figures(tiny_recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = ["data.validation=[]", "train.tracker=tensorboard"]
    train(load_recipe(str(tiny_recipe), settings), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "trainer" / "run")).Reload()
    (loss,) = events.Scalars("loss")
    line = (tmp_path / "run" / "trainer" / "metrics.jsonl").read_text().splitlines()[-1]
    assert loss.step == 6
    assert loss.value == pytest.approx(json.loads(line)["loss"], rel=1e-6)


def last_loss(folder: Path) -> float:
    return float(json.loads((folder / "trainer" / "metrics.jsonl").read_text().splitlines()[-1])["loss"])


def records(log: bytes) -> list[bytes]:
    """Those of a log in LevelDB's format: in blocks of 32 KiB, each piece with checksum, length and type."""
    whole, pieces, at = [], b"", 7  # behind wandb's own header
    while at + 7 <= len(log):
        length, kind = int.from_bytes(log[at + 4 : at + 6], "little"), log[at + 6]
        pieces += log[at + 7 : at + 7 + length]
        if kind in (1, 4):  # whole, last piece
            whole.append(pieces)
            pieces = b""
        at += 7 + length
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
    return whole


def test_wandb_is_given_the_figures_offline(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    train(load_recipe(str(tiny_recipe), ["data.validation=[]", "train.tracker=wandb"]), tmp_path / "run")
    assert [each.name for each in tmp_path.iterdir()] == ["run"]
    (file,) = (tmp_path / "run" / "trainer" / "wandb").glob("offline-run-*/*.wandb")
    logged: dict[str, str] = {}
    for data in records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        logged |= {(item.key or item.nested_key[0]): item.value_json for item in record.history.item}
    assert float(logged["loss"]) == pytest.approx(last_loss(tmp_path / "run"), rel=1e-6)


def test_trackio_is_given_the_figures(tiny_recipe: Path, tmp_path: Path) -> None:
    """In a process of its own: where trackio keeps them is decided when it is imported."""
    pytest.importorskip("trackio")
    command = [sys.executable, "-m", "nota_cli.cli", "train", str(tiny_recipe), "--out", str(tmp_path / "run")]
    command += ["--set", "data.validation=[]", "--set", "train.tracker=trackio"]
    variables = {**os.environ, "TRACKIO_DIR": str(tmp_path / "kept")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(tmp_path / "kept" / "run.db")) as database:
        ((step, figures),) = database.execute("select step, metrics from metrics").fetchall()
    assert step == 6
    assert json.loads(figures)["loss"] == pytest.approx(last_loss(tmp_path / "run"), rel=1e-6)


def test_a_tracker_that_is_not_installed_is_refused_before_the_work(tiny_recipe: Path, tmp_path: Path) -> None:
    name = next((name for name in ("trackio", "mlflow", "wandb") if find_spec(name) is None), None)
    if name is None:
        pytest.skip("all are installed")
    with pytest.raises(RecipeError, match=f"pip install {name}"):
        train(load_recipe(str(tiny_recipe), [f"train.tracker={name}"]), tmp_path)
