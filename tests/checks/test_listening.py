import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import echo_family
from nota_cli.generation.answer import Answer
from nota_cli.recipe.families import FAMILIES

Run = Callable[..., int]


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Path]:
    echo_family.register()
    (tmp_path / "echo.yaml").write_text("family: echo\nword: pong\n")
    yield tmp_path / "echo.yaml"
    del FAMILIES["echo"]


def test_the_shipped_model_listens(nota: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for task, metric in (("aac", "cider_d_x100"), ("asr", "wer")):
        assert nota("check", "listening", "tiny", "--task", task, "--json") == 0
        report = json.loads(capsys.readouterr().out)
        own, silent, others, first = (each[metric] for each in report["figures"])
        worse = (lambda one, other: one > other) if task == "asr" else (lambda one, other: one < other)
        assert worse(silent, own)
        assert worse(others, own)
        assert [each["audio"] for each in report["figures"]] == ["as it is", "silence", "other clips", "first second"]
        assert report["verdict"].startswith("It listens")


def test_a_model_that_does_not_is_exposed(
    nota: Run, echo: Path, clips: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deaf = echo_family.EchoModel.generate_answers

    def same(self: object, features: echo_family.Lengths, *arguments: object, **more: object) -> list:
        return deaf(self, echo_family.Lengths([1.0] * len(features.seconds)), *arguments, **more)

    monkeypatch.setattr(echo_family.EchoModel, "generate_answers", same)
    arguments = ["check", "listening", echo, "--task", "asr", "--annotation", clips / "asr.json"]
    assert nota(*arguments, "--audio-root", clips) == 0
    assert "It does not listen" in capsys.readouterr().err


def test_one_row_is_too_few(nota: Run, echo: Path, clips: Path, tmp_path: Path) -> None:
    rows = json.loads((clips / "asr.json").read_text())["annotation"][:1]
    (tmp_path / "one.json").write_text(json.dumps({"annotation": rows}))
    assert (
        nota("check", "listening", echo, "--task", "asr", "--annotation", tmp_path / "one.json", "--audio-root", clips)
        == 1
    )


def test_questions_with_choices_are_compared_by_accuracy(
    nota: Run,
    echo: Path,
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def pong(self: object, features: echo_family.Lengths, *arguments: object, **more: object) -> list[Answer]:
        return [Answer("It is pong.") for _ in features.seconds]

    monkeypatch.setattr(echo_family.EchoModel, "generate_answers", pong)
    rows = json.loads((clips / "asr.json").read_text())["annotation"]
    for place, row in enumerate(rows):
        row |= {"task": "QA", "Q": "what is said?", "choices": ["ping", "pong"], "text": "AB"[place % 2]}
    (tmp_path / "qa.json").write_text(json.dumps({"annotation": rows}))
    annotation = ["--annotation", tmp_path / "qa.json", "--audio-root", clips]
    assert nota("check", "listening", echo, "--task", "qa", *annotation, "--json") == 0
    right = 100 * (len(rows) // 2) / len(rows)
    assert [each["accuracy"] for each in json.loads(capsys.readouterr().out)["figures"]] == [right] * 4
