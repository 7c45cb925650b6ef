"""Benchmarks that stand behind tables of the documentation run, here on the shipped model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import REPOSITORY


def test_an_export_has_a_row_beside_its_source(exported_tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "tiny-32-32").symlink_to(exported_tiny)
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "stacks.py"), "--only", "tiny", "--rounds", "1"]
    command += [
        "--exports",
        str(tmp_path),
        "--bits",
        "32-32",
        "--seconds",
        "0",
        "--audio-seconds",
        "2",
        "--tokens",
        "4",
    ]
    command += ["--markdown", str(tmp_path / "stacks.md")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    systems = json.loads(done.stdout.splitlines()[-1])["systems"]
    assert list(systems) == ["tiny", "tiny onnx 32-32"]
    manifest = json.loads((exported_tiny / "manifest.json").read_text())
    size = sum(number for part in manifest["parts"] for number in part["by_type"].values())
    assert systems["tiny onnx 32-32"]["weights_mb"] == pytest.approx(size / 1e6, abs=0.01)
    assert systems["tiny onnx 32-32"]["kernel"] == "onnxruntime"
    table = (tmp_path / "stacks.md").read_text()
    ratio = systems["tiny onnx 32-32"]["tpot_s"] / systems["tiny"]["tpot_s"]
    assert f"| {ratio:.2f}x |" in table.splitlines()[-1]
