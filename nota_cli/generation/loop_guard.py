"""What becomes of answers whose end repeats itself, whatever model gave them."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from nota_cli.generation.answer import Answer
from nota_cli.generation.repetition import PENALTY, cut_loop, is_looped
from nota_cli.recipe.schema import Generate


def guarded(
    answers: Sequence[Answer], settings: Generate, again: Callable[[list[int], Generate], list[Answer]]
) -> list[Answer]:
    """Answers with their loops noted, and cut or asked again as `settings.loop_guard` says.

    Args:
        answers: as they were found.
        settings: of the search that found them.
        again: answers some of the rows, by number, with other settings.
    """
    kept = list(answers)
    looped = [row for row, answer in enumerate(kept) if is_looped(answer.text)]
    if looped and settings.loop_guard == "penalise":
        stricter = settings.model_copy(update={"repetition_penalty": settings.repetition_penalty * PENALTY})
        for row, answer in zip(looped, again(looped, stricter), strict=True):
            kept[row] = answer
    for row in looped:
        text = kept[row].text if settings.loop_guard == "off" else cut_loop(kept[row].text)
        kept[row] = replace(kept[row], text=text, looped=True)
    return kept
