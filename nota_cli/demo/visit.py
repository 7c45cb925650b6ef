"""What the page does with a visitor's recording, apart from how the page is put together."""

import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from nota_cli.api import Task
from nota_cli.console import debug, fail
from nota_cli.demo.markup import EMPTY_PICTURE, alert, answer_card, notes_of, waiting_card
from nota_cli.demo.picture import picture
from nota_cli.demo.recording import Limits, read_recording, visitor_message
from nota_cli.demo.session import System
from nota_cli.errors import NotaError

TASKS: dict[str, Task] = {"What is said": "asr", "What is heard": "aac", "A question": "qa"}
NONE = "none"
"""The choice of no second model."""
UNEXPECTED = "Something went wrong here, and it is not your recording's fault. Whoever runs this page sees why."


def draw_recording(path: Path | None, systems: Sequence[System], limits: Limits) -> str:
    """A recording's picture and length, or why it cannot be heard, as HTML."""
    if path is None:
        return EMPTY_PICTURE
    try:
        recording = read_recording(path, limits)
        drawn = picture(recording.waveform, recording.name)
    except Exception as error:
        return alert(explain(error, path))
    return drawn + notes_of(recording, min(system.hears_seconds for system in systems))


def listen(
    path: Path | None, task: str, question: str, systems: Sequence[System], limits: Limits
) -> Iterator[list[str]]:
    """A card of HTML for each system, again and again as the answers grow, one after the other.

    Args:
        path: the recording, None where there is none yet.
        task: one of `TASKS`.
        question: of the task that has one.
        systems: those that are asked.
        limits: what recordings may be.
    """
    cards = [waiting_card(system.name) for system in systems]
    problem = _problem(path, task, question, limits)
    if path is None or problem:
        yield [alert(problem), *([""] * (len(systems) - 1))]
        return
    for number, system in enumerate(systems):
        cards[number] = waiting_card(system.name, "Listening ...")
        yield list(cards)
        try:
            for answer in system.answer(path, TASKS[task], question.strip()):
                cards[number] = answer_card(system, answer)
                yield list(cards)
        except Exception as error:
            cards[number] = alert(f"{system.name}: {explain(error, path)}")
            yield list(cards)


def _problem(path: Path | None, task: str, question: str, limits: Limits) -> str:
    """Why nothing can be asked yet; empty where all is well."""
    if path is None:
        return "Record or upload something first, or take an example."
    if TASKS[task] == "qa" and not question.strip():
        return "Write your question about the recording."
    try:
        read_recording(path, limits)
    except Exception as error:
        return explain(error, path)
    return ""


def explain(error: Exception, path: Path) -> str:
    """An error for the visitor, without this machine's folders; what is a fault of ours goes to stderr as well."""
    if isinstance(error, NotaError):
        return visitor_message(error, path)
    fail(f"the page: {type(error).__name__}: {error}")
    debug("".join(traceback.format_exception(error)))
    return UNEXPECTED
