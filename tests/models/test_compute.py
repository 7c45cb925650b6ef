"""Arithmetic follows what the processor multiplies; weights stay as the recipe says."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.paths import SAMPLES
from nota_cli.models.build import build
from nota_cli.models.compute import multiplies
from nota_cli.recipe.load import load_recipe

HALF = [f"{part}.dtype=bfloat16" for part in ("speech_encoder", "audio_encoder", "decoder")]


@pytest.fixture
def without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nota_cli.models.compute.multiplies", lambda dtype: dtype == torch.float32)


def dtypes(model: torch.nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in model.parameters()}


def test_every_processor_multiplies_float32_and_one_held_to_avx2_no_16_bits() -> None:
    assert multiplies(torch.float32)
    program = (
        "import torch; from nota_cli.models.compute import multiplies; "
        "print(multiplies(torch.bfloat16), multiplies(torch.float16))"
    )
    held = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", program], env=held, capture_output=True, text=True, check=True)
    if "x86" in os.uname().machine:
        assert done.stdout.split() == ["False", "False"]


@pytest.mark.usefixtures("without_bfloat16")
def test_each_part_in_16_bits_computes_in_float32_and_says_so(tiny_recipe: Path, capsys: pytest.CaptureFixture) -> None:
    model = build(load_recipe(str(tiny_recipe), HALF), "cpu", "run")
    assert model.speech_encoder.conv1.weight.dtype == torch.float32
    assert torch.bfloat16 in dtypes(model.speech_encoder)
    assert torch.bfloat16 in dtypes(model.decoder)
    assert set(model.compute) == {"speech_encoder", "audio_encoder", "decoder"}
    assert all(choice.startswith("float32 (stored in bfloat16") for choice in model.compute.values())
    assert "decoder computes in float32 (stored in bfloat16" in capsys.readouterr().err


@pytest.mark.usefixtures("without_bfloat16")
@pytest.mark.parametrize("purpose", ["train", "inspect"])
def test_what_does_not_run_stays_as_stored(purpose: str, tiny_recipe: Path) -> None:
    model = build(load_recipe(str(tiny_recipe), HALF), "cpu", purpose)
    assert dtypes(model.speech_encoder) == dtypes(model.decoder) == {torch.bfloat16}


@pytest.mark.usefixtures("without_bfloat16")
def test_the_recipe_may_ask_for_the_stored_type(tiny_recipe: Path) -> None:
    model = build(load_recipe(str(tiny_recipe), [*HALF, "generate.compute=stored"]), "cpu", "run")
    assert dtypes(model.speech_encoder) == {torch.bfloat16}
    assert model.compute["decoder"] == "bfloat16"


@pytest.mark.usefixtures("without_bfloat16")
def test_a_run_reports_what_its_parts_computed_in(nota: Callable[..., int], tmp_path: Path) -> None:
    """The shipped 4-bit decoder, its encoders in 8 bits of bfloat16: the texts of float32."""
    data = ["--annotation", SAMPLES / "asr.json", "--audio-root", SAMPLES, "--task", "asr"]
    assert nota("infer", *data, "--out", tmp_path / "a.csv") == 0
    stored = [
        f"--set={part}.{key}"
        for part in ("speech_encoder", "audio_encoder")
        for key in ("dtype=bfloat16", "quantization=int8")
    ]
    assert nota("infer", *data, *stored, "--set", "decoder.dtype=bfloat16", "--out", tmp_path / "b.csv") == 0
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    report = json.loads((tmp_path / "b.run.json").read_text())
    assert {choice.split()[0] for choice in report["compute"].values()} == {"float32"}
    assert "audio_encoder" in report["compute"]
