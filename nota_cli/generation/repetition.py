"""Answers that repeat themselves, to their end or for very long: found, and cut to the first time."""

import re
from collections.abc import Sequence
from string import punctuation

LONGEST = 10  # words that repeat together, at most
TIMES = 4  # times that they stand in a row, at least
LEAST = 10  # words that a loop has at least: a speaker may well say four times the same digit
LONGEST_PART, PART_TIMES, LEAST_LETTERS = 16, 8, 24  # the same for the letters of the last word
RUN_TIMES, RUN_LEAST = 8, 16  # from which on it is a loop though other words come behind it
PENALTY = 1.3  # what the repetition penalty is multiplied by for another try

_WORD = re.compile(r"\S+")


def find_loop(words: Sequence[str]) -> tuple[int, int] | None:
    """Where a sequence begins to repeat itself up to its end.

    Words are compared without regard to case and to punctuation at their edges. The end may fall into the middle of
    a repetition, and of a word.

    Returns:
        The place where the shortest repeating n-gram stands first, and its length; or None if nothing repeats.
    """
    plain = [plain_word(word) for word in words]
    return _repeated(plain, LONGEST, TIMES, LEAST)


def find_run(words: Sequence[str]) -> tuple[int, int] | None:
    """Where words repeat for so long that no speaker does, and no more words come behind: a model that stumbled.

    Returns:
        Where the first such repetition begins, and how many words repeat; or None.
    """
    plain = [plain_word(word) for word in words]
    for size in range(1, LONGEST + 1):
        same = 0
        for index in range(size, len(plain) + 1):
            if index < len(plain) and plain[index] == plain[index - size]:
                same += 1
            elif same + size >= max(RUN_LEAST, RUN_TIMES * size) and len(plain) - index <= same + size:
                return index - same - size, size
            else:
                same = 0
    return None


def cut_loop(text: str) -> str:
    """The text with what repeats up to its end, or for very long, left once; any other text comes back as it is."""
    while (shorter := _cut_once(text)) is not None:
        text = shorter
    return text


def is_looped(text: str) -> bool:
    """Whether `cut_loop` would shorten the text."""
    return cut_loop(text) != text


def _cut_once(text: str) -> str | None:
    words = list(_WORD.finditer(text))
    if not words:
        return None
    spoken = [word[0] for word in words]
    if repeated := find_loop(spoken) or find_run(spoken):
        return text[: words[sum(repeated) - 1].end()].rstrip(" ,;:")
    start, end = words[-1].span()
    inside = _repeated(text[start:end], LONGEST_PART, PART_TIMES, LEAST_LETTERS)
    return None if inside is None else text[: start + sum(inside)]


def plain_word(word: str) -> str:
    """A word as repetitions are compared: no capitals, no punctuation round it, unless it is nothing else."""
    return word.casefold().strip(punctuation) or word


def _repeated(units: Sequence[str], longest: int, times: int, least: int) -> tuple[int, int] | None:
    for size in range(1, min(longest, len(units) // times) + 1):
        # The last one may be cut off; it only has to begin like what it repeats.
        same = 1 if units[-1 - size].startswith(units[-1]) else 0
        while same and same + size < len(units) and units[-1 - same] == units[-1 - same - size]:
            same += 1
        if same and same + size >= max(least, times * size):
            return len(units) - same - size, size
    return None
