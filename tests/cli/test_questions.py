"""The questions of docs/questions.md, answered by `--help` alone."""

import re
from collections.abc import Callable

import pytest

from helpers.paths import REPOSITORY

ANSWERS = {
    "Which recipes are there?": ["list", "List the recipes that ship with nota"],
    "How big is one?": ["parameters, and bytes", "Nothing is downloaded"],
    "What does a task name mean?": ["asr: what is said", "aac: a caption of what is heard", "qa: answers to questions"],
    "How do I resume a run?": ["re-run the same command to resume"],
    "How do I use my own audio?": ["files, folders, globs", "nota transcribe my.wav"],
    "Where is my CSV?": ["submissions/RECIPE-TASK.csv"],
    "How do I get the weights?": ["Get the weights of a recipe", "nota download gemma2-2b-gptq"],
    "What does a system cost?": ["memory, time to first token and time per output token"],
    "How do I add my model?": ["base: NAME", "--recipe FILE.yaml"],
    "What failed?": [".run.json", "the rows that failed and why"],
}
ROW = re.compile(r"\| (.*\?) \| `nota (.*)` \| .* \|")
QUESTIONS = ROW.findall((REPOSITORY / "docs" / "questions.md").read_text(encoding="utf-8"))


def test_every_question_has_its_answer() -> None:
    assert [question for question, _ in QUESTIONS] == list(ANSWERS)


@pytest.mark.parametrize(("question", "command"), QUESTIONS)
def test_help_answers(
    question: str,
    command: str,
    nota: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 200)
    assert nota(*command.split()) == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    for words in ANSWERS[question]:
        assert words in text
