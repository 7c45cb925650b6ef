"""Answers that grow, what they cost, and what a visitor sees of them; no gradio is needed."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers import echo_family
from helpers.paths import SAMPLES
from nota_cli import AudioLM
from nota_cli.demo.markup import answer_card, megabytes, milliseconds
from nota_cli.demo.recording import Limits
from nota_cli.demo.session import Answer, Cost, System, in_background
from nota_cli.demo.visit import UNEXPECTED, draw_recording, listen
from nota_cli.errors import UsageError

DIGITS, RAIN = SAMPLES / "audio" / "digits-371.flac", SAMPLES / "audio" / "rain.flac"
DONE = Answer("all", Cost(0.1, 0.01, 3, 0.2, 5_000_000))


@pytest.fixture(scope="module")
def tiny() -> System:
    return System("tiny", AudioLM.from_pretrained())


def test_an_answer_grows_and_ends_with_its_cost(tiny: System) -> None:
    answers = list(tiny.answer(DIGITS, "asr"))
    assert answers[-1].text == tiny.model.transcribe(DIGITS) == "three seven one"
    assert all(answers[-1].text.startswith(answer.text) for answer in answers)
    cost = answers[-1].cost
    assert cost is not None
    assert [answer.cost for answer in answers[:-1]] == [None] * (len(answers) - 1)
    assert cost.tokens == 4  # the end symbol is one
    assert cost.first_token is not None
    assert cost.per_token is not None
    assert 0 < cost.first_token < cost.first_token + 3 * cost.per_token <= cost.seconds * 1.01
    assert cost.peak_bytes is None or cost.peak_bytes > tiny.weight_bytes > 5e6


def test_captions_and_questions(tiny: System) -> None:
    assert list(tiny.answer(RAIN, "aac"))[-1].text == tiny.model.caption(RAIN)
    assert list(tiny.answer(RAIN, "qa", "is there rain"))[-1].text == tiny.model.ask(RAIN, "is there rain")
    with pytest.raises(UsageError, match="question is empty"):
        list(tiny.answer(RAIN, "qa", ""))


def test_two_visitors_at_once_get_their_own_answers(tiny: System) -> None:
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(lambda task: list(tiny.answer(*task))[-1].text, task) for task in 2 * BOTH]
    assert [each.result() for each in asked] == 2 * ["three seven one", tiny.model.caption(RAIN)]


BOTH: list[tuple[Path, str]] = [(DIGITS, "asr"), (RAIN, "aac")]


def test_of_answers_that_come_fast_the_newest_is_taken_and_the_last_is_not_lost() -> None:
    def work(give: Callable[[Answer], None]) -> None:
        for text in "abc":
            give(Answer(text))
        give(DONE)

    assert list(in_background(work))[-1] == DONE


def test_who_leaves_ends_the_search() -> None:
    ended, given = threading.Event(), threading.Event()

    def work(give: Callable[[Answer], None]) -> None:
        try:
            give(Answer("a"))
            given.wait(60)
            give(Answer("b"))
        finally:
            ended.set()

    answers = in_background(work)
    assert next(answers) == Answer("a")
    answers.close()
    given.set()
    assert ended.wait(60)


def test_a_model_that_does_not_go_by_the_token() -> None:
    system = System("echo", AudioLM(echo_family.EchoModel(echo_family.EchoRecipe(name="echo"))))
    (answer,) = system.answer(DIGITS, "asr")
    assert answer.text.startswith("ping")
    assert answer.cost is not None
    assert (answer.cost.first_token, answer.cost.per_token, answer.cost.tokens) == (None, None, 0)
    assert "<dd>–</dd>" in answer_card(system, answer)


def test_what_a_visitor_sees(tiny: System) -> None:
    cards = list(listen(DIGITS, "What is said", "", [tiny, tiny], Limits()))
    assert "Listening" in cards[0][0]
    first, second = cards[-1]
    for card in (first, second):
        assert "three seven one" in card
        assert "First token" in card
        assert "Peak memory" in card
    drawn = draw_recording(DIGITS, [tiny], Limits())
    assert "digits-371.flac, 1.7 s." in drawn
    assert "hears the first" not in drawn
    assert str(SAMPLES) not in drawn


@pytest.mark.parametrize(
    ("path", "task", "question", "message"),
    [
        (None, "What is said", "", "Record or upload something first"),
        (DIGITS, "A question", "  ", "Write your question"),
        (SAMPLES / "asr.json", "What is said", "", "asr.json: "),
    ],
)
def test_what_is_missing_is_asked_for(path: Path | None, task: str, question: str, message: str, tiny: System) -> None:
    ((card, beside),) = listen(path, task, question, [tiny, tiny], Limits())
    assert message in card
    assert 'role="alert"' in card
    assert str(SAMPLES) not in card
    assert beside == ""


def test_a_fault_of_ours_is_not_shown_in_detail(
    tiny: System, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(f"no such thing in {SAMPLES}")

    monkeypatch.setattr(tiny.model, "load_recording", broken)
    cards = list(listen(DIGITS, "What is said", "", [tiny], Limits()))
    assert UNEXPECTED.partition("'")[0] in cards[-1][0]
    assert str(SAMPLES) not in cards[-1][0]
    assert "no such thing in" in capsys.readouterr().err


def test_figures_in_words() -> None:
    assert [milliseconds(value) for value in (None, 0.0018, 0.035, 2.44)] == ["–", "1.8 ms", "35 ms", "2.4 s"]
    assert [megabytes(value) for value in (None, 9_000_000, 613_000_000, 2.1e9)] == ["–", "9.0 MB", "613 MB", "2.1 GB"]
