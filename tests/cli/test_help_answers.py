"""The questions of docs/questions.md answered by `--help` alone, and the choices that it lists."""

import re
from collections.abc import Callable

import pytest

from helpers.paths import REPOSITORY
from nota_cli.data.corpora.published import READERS
from nota_cli.score.profiles import ALL, PROFILES

ANSWERS = {
    "Which recipes are there?": ["list", "List the recipes that ship with nota"],
    "How big is one?": ["parameters, and bytes", "Nothing is downloaded"],
    "What does a task name mean?": ["asr: what is said", "aac: a caption of what is heard", "qa: answers to questions"],
    "How do I resume a run?": ["re-run the same command to resume"],
    "How do I use my own audio?": ["files, folders, globs", "nota transcribe my.wav"],
    "How do I resume training?": ["the same command with this flag", "--resume"],
    "How do I train on my own data?": ["base: tiny-samples", "data.train", "nota data prepare"],
    "How do I run a model without torch?": ["graphs that run without torch", "--recipe exports/tiny"],
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


@pytest.fixture
def help_text(
    nota: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """What `nota COMMAND --help` prints, on one line and without frames."""
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 200)

    def text(command: str) -> str:
        assert nota(*command.split(), "--help") == 0
        return " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())

    return text


@pytest.mark.parametrize(("question", "command"), QUESTIONS)
def test_help_answers(question: str, command: str, help_text: Callable[[str], str]) -> None:
    text = help_text(command.removesuffix("--help"))
    for words in ANSWERS[question]:
        assert words in text


def test_help_states_the_exit_statuses(help_text: Callable[[str], str]) -> None:
    text = help_text("")
    for status in ("0 done", "1 it ran, and the answer is bad", "2 wrong use"):
        assert status in text


@pytest.mark.parametrize(
    ("command", "option", "choices"),
    [
        *(
            (command, "--task", "<asr|aac|qa>")
            for command in ("infer", "score", "submit", "check batch", "check listening")
        ),
        ("score", "--profile", f"<{'|'.join((*PROFILES, ALL))}>"),
        ("compare", "--missing", "<worst|skip>"),
        ("quantize", "--bits", "<2|3|4|8>"),
        ("recipes list", "--family", "<salmonn|transformers>"),
    ],
)
def test_help_lists_the_choices_of_an_option(
    command: str, option: str, choices: str, help_text: Callable[[str], str]
) -> None:
    assert f"{option} {choices}" in help_text(command)


def test_help_lists_the_published_corpora(help_text: Callable[[str], str]) -> None:
    text = help_text("data prepare")
    assert all(name in text for name in READERS)
