"""Weights that are not there: what stands in for the hub, and what is said where nothing does."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.audio import write
from helpers.hub import Hub, run, small_hub
from helpers.paths import REPOSITORY
from nota_cli.hub import local_path


@pytest.fixture
def hub() -> Iterator[Hub]:
    with small_hub() as served:
        yield served


def test_published_weights_come_from_the_hub_where_it_gives_them(hub: Hub, tmp_path: Path) -> None:
    script = REPOSITORY / "scripts" / "real_weights.py"
    weights = os.urandom(100_000)
    hub.repos["openai/whisper-base"] = {"config.json": b"{}", "model.safetensors": weights, "tf_model.h5": b"again"}
    hub.repos["google/gemma-3-270m"] = {"config.json": b"{}", "model.safetensors": weights}
    hub.gated.add("google/gemma-3-270m")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": hub.url}

    def assemble(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), "--only", name, "--from", "hub", "--out", str(tmp_path / "weights")]
        return subprocess.run(command, env={**clean, **settings}, capture_output=True, text=True, check=False)

    for words in ("copied from openai/whisper-base on the hub", "here already, verified"):
        done = assemble("whisper-base")
        assert (done.returncode, words in done.stderr) == (0, True), done.stderr
    folder = tmp_path / "weights" / "whisper-base"
    assert sorted(path.name for path in folder.iterdir()) == ["SHA256SUMS", "config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == weights
    refused = assemble("gemma-3-270m")
    assert refused.returncode == 1
    assert "google/gemma-3-270m is gated" in refused.stderr
    assert not (tmp_path / "weights" / "gemma-3-270m").exists()


def test_a_folder_of_ones_own_stands_in_for_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`weights/NAME`, or NAME in $NOTA_WEIGHTS, for ORG/NAME; a path that is there comes first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOTA_WEIGHTS", raising=False)
    own, other = tmp_path / "weights" / "ears", tmp_path / "elsewhere" / "ears"
    for folder in (own, other):
        folder.mkdir(parents=True)
    assert local_path("org/ears") == Path("weights/ears")
    assert local_path("another/ears", kind="tokenizer") == Path("weights/ears")
    monkeypatch.setenv("NOTA_WEIGHTS", str(other.parent))
    assert local_path("org/ears") == other
    (tmp_path / "org" / "ears").mkdir(parents=True)
    assert local_path("org/ears") == Path("org/ears")


def test_what_stands_in_is_never_a_file_or_another_name(hub: Hub, tmp_path: Path) -> None:
    """A file of a repository, a folder of another name and what is no folder leave the hub to be asked."""
    weights = tmp_path / "own"
    (weights / "sounds").mkdir(parents=True)
    (weights / "ears").write_text("no folder")
    code = "answer = [str(local_path('org/sounds/beats.pt')), str(local_path('org/ears'))]"
    found = run(code, tmp_path, hub, NOTA_WEIGHTS=str(weights))
    assert all(str(tmp_path / "own") not in path for path in found)
    assert [Path(path).exists() for path in found] == [True, True]


def test_absent_weights_name_the_recipes_own_remedies(tmp_path: Path) -> None:
    """The recipe's name in the command, and the script for those that it has."""

    def message(recipe: str) -> str:
        rows = tmp_path / "rows.json"
        rows.write_text('{"annotation": [{"path": "a.wav", "task": "asr", "testset_id": "test0000"}]}')
        command = [
            "infer",
            "--recipe",
            recipe,
            "--task",
            "asr",
            "--annotation",
            str(rows),
            "--audio-root",
            str(tmp_path),
        ]
        command += ["--out", str(tmp_path / "out.csv")]
        environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
        environment |= {"NOTA_WEIGHTS": str(tmp_path / "none"), "NO_COLOR": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "nota_cli.cli", *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        return " ".join(done.stderr.split())

    small, other = message("small"), message("salmonn-3b")
    assert "`nota download small`" in small
    assert "`python scripts/real_weights.py`" in small
    assert "`nota download salmonn-3b`" in other
    assert "real_weights" not in other


def test_a_misspelt_checkpoint_is_looked_for_here_not_on_the_hub(
    nota: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoints" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert nota("infer", "--checkpoint", "checkpoints/nope", "--task", "asr", "--out", "o.csv") == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "there is no checkpoint 'checkpoints/nope'" in message
    assert "mine" in message
    assert "hub" not in message


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_is_one_sentence_for_download_and_infer(hub: Hub, status: int, tmp_path: Path) -> None:
    """401 without a login, 403 with one whose owner did not accept the terms."""
    hub.gated.add("org/ears")
    (tmp_path / "mine.yaml").write_text("family: transformers\nmodel: {path: org/ears}\n")
    (tmp_path / "rows.json").write_text('{"annotation": [{"path": "a.wav", "task": "asr", "testset_id": "test0000"}]}')
    write(tmp_path / "a.wav", np.zeros(16_000, np.float32))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    clean |= {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": hub.url, "NO_COLOR": "1", "COLUMNS": "400"}
    clean |= {"NOTA_WEIGHTS": str(tmp_path / "none"), **({"HF_TOKEN": "hf_secret"} if status == 403 else {})}
    infer = ["infer", "--recipe", "mine.yaml", "--task", "asr", "--annotation", "rows.json", "--audio-root", "."]
    for command in (["download", "mine.yaml"], [*infer, "--out", "out.csv"]):
        done = subprocess.run(
            [sys.executable, "-m", "nota_cli.cli", *command],
            cwd=tmp_path,
            env={**clean, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=False,
        )
        message = " ".join(done.stderr.split())
        assert done.returncode == 1, message
        assert "org/ears is gated" in message
        assert "https://huggingface.co/org/ears" in message
        assert "`hf auth login`, or HF_TOKEN=..." in message
        assert "Traceback" not in message
        assert "hf_secret" not in message
        assert not (tmp_path / "out.csv").exists()
