"""Recipe `small`, as it ships, on real speech; and its training, cut and gone on with, on its real parts."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nota_cli.score.report import score_submission

pytestmark = pytest.mark.real
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "real"
HELD_OUT = 3  # clips of speakers that it never trained on
SHORT = 4  # clips to train on
EXACT = ["--set", "decoder.dtype=float32"]  # processors without bfloat16 of their own take ten times as long for it


@pytest.fixture(scope="module")
def environment(weights: Callable[[str], Path]) -> dict[str, str]:
    """Where the weights lie; skips where they do not."""
    folders = {weights(name).parent for name in ("whisper-base", "gemma-3-270m")}
    return {**os.environ, "NOTA_WEIGHTS": str(folders.pop()), "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def speech() -> list[dict[str, object]]:
    """Rows of speechocean762 with their paths under REAL."""
    file = REAL / "speechocean762.json"
    if not file.is_file():
        pytest.skip(f"needs {file}, recordings of real speech")
    return json.loads(file.read_text())["annotation"]


def annotation(rows: list[dict[str, object]], file: Path) -> Path:
    numbered = [{**row, "testset_id": f"test{number:04d}"} for number, row in enumerate(rows)]
    file.write_text(json.dumps({"annotation": numbered}))
    return file


def nota(*arguments: object, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nota_cli.cli", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_it_writes_down_what_held_out_speakers_say(
    environment: dict[str, str], speech: list[dict[str, object]], tmp_path: Path
) -> None:
    first = sorted({str(row["speaker"]) for row in speech})[0]  # among the 20 that scripts/small_data.py holds out
    rows = [row for row in speech if row["speaker"] == first][4 : 4 + HELD_OUT]
    rows_file, out = annotation(rows, tmp_path / "rows.json"), tmp_path / "asr.csv"
    arguments = [
        "--recipe",
        "small",
        "--task",
        "asr",
        "--annotation",
        rows_file,
        "--audio-root",
        REAL,
        "--out",
        out,
        *EXACT,
    ]
    nota("infer", *arguments, environment=environment)
    with out.open(newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    assert len(texts) == HELD_OUT
    assert all(text.strip() for text in texts)
    assert score_submission(out, rows_file, "asr")["wer"] < 60, texts
    one = nota("transcribe", "--recipe", "small", REAL / str(rows[0]["path"]), *EXACT, environment=environment)
    assert one.stdout.strip() == texts[0]


@pytest.mark.parametrize(("recipe", "steps"), [("small-connector", 20), ("small-decoder", 4)])
def test_a_killed_training_goes_on_as_if_nothing_had_happened(
    recipe: str, steps: int, environment: dict[str, str], speech: list[dict[str, object]], tmp_path: Path
) -> None:
    """Killed by SIGKILL, resumed, to the bit; steps through the decoder are few because they are slow."""
    brief = [row for row in speech if 1.0 < float(str(row["seconds"])) < 2.2][:SHORT]
    source = {"annotation": str(annotation(brief, tmp_path / "rows.json")), "audio_root": str(REAL), "join": 2}
    settings = [f"data.train={json.dumps([source])}", "data.validation=[]", f"train.steps={steps}"]
    settings += ["train.batch_size=2", "train.save_every=1", "train.warmup_steps=2", "train.workers=0"]
    settings += ["train.init=null"] if recipe == "small-decoder" else []
    settings += ["decoder.dtype=float32", "train.autocast=false"]  # as EXACT
    given = [flag for setting in settings for flag in ("--set", setting)]
    nota("train", recipe, "--out", tmp_path / "whole", *given, environment=environment)
    command = [sys.executable, "-m", "nota_cli.cli", "train", recipe, "--out", str(tmp_path / "killed"), *given]
    state = tmp_path / "killed" / "trainer" / "state.safetensors"
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        while run.poll() is None and not state.exists():
            time.sleep(0.005)
        run.send_signal(signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "recipe.yaml").exists()
    nota("train", recipe, "--out", tmp_path / "killed", "--resume", *given, environment=environment)
    names = ["model.safetensors", *(["adapter/adapter_model.safetensors"] if recipe == "small-decoder" else [])]
    for name in names:
        whole, killed = (load_file(tmp_path / kind / name) for kind in ("whole", "killed"))
        assert whole.keys() == killed.keys()
        assert all(torch.equal(killed[key], tensor) for key, tensor in whole.items()), name
