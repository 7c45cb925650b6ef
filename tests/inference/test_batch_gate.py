import csv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import echo_family
from nota_cli.inference.batch_gate import unlike
from nota_cli.recipe.families import FAMILIES

Run = Callable[..., int]


@pytest.fixture
def leaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A family whose shorter clips take over the length of the longest in their batch, as with padding that leaks."""
    FAMILIES["echo"] = replace(echo_family.FAMILY, batches_alike=False)
    whole = echo_family.EchoModel.generate_answers

    def leaks(self: object, features: echo_family.Lengths, *arguments: object, **more: object) -> list:
        longest = max(features.seconds)
        return whole(self, echo_family.Lengths([longest] * len(features.seconds)), *arguments, **more)

    monkeypatch.setattr(echo_family.EchoModel, "generate_answers", leaks)
    (tmp_path / "echo.yaml").write_text("family: echo\nword: pong\n")
    yield tmp_path / "echo.yaml"
    del FAMILIES["echo"]


def test_clips_of_unlike_lengths() -> None:
    assert unlike([0, 1, 2, 3, 4], [5.0, 1.0, 3.0, 2.0, 4.0], 3) == [1, 2, 0]
    assert unlike([7, 8], [2.0, 1.0], 4) == [8, 7]


def test_infer_falls_back_to_single_clips(
    nota: Run, leaky: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--annotation", clips / "all.json", "--audio-root", clips, "--out", tmp_path / "o.csv"]
    assert nota("infer", "--recipe", leaky, *arguments) == 0
    assert "so it runs at batch 1" in " ".join(capsys.readouterr().err.split())
    with (tmp_path / "o.csv").open() as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    assert texts == ["pong 1.2", "pong 1.0", "pong 2.3", "pong 1.7", "pong 3.1"]


def test_the_command_names_the_clips(nota: Run, leaky: Path, clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--annotation", clips / "all.json", "--audio-root", clips, "--task", "asr"]
    assert nota("check", "batch", leaky, *arguments) == 1
    assert "audio/c1.wav" in capsys.readouterr().out
    assert nota("check", "batch", "tiny") == 0
    assert "4 of 4 clips have the same text" in capsys.readouterr().err
