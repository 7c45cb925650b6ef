"""Questions with choices: how they are lettered and checked, and which of them an answer means, if that is plain."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase
from typing import Any, Literal

MOST = len(ascii_uppercase)
_LETTERS = frozenset(ascii_lowercase)

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_ALONE = re.compile(r"[\W_]*([A-Za-z])[\W_]*")
_LABEL = re.compile(r"[\s\"'“‘*_(\[]*([A-Za-z])[\"'”’*_]*(?:[.):\]]|\s+[-–—]\s)")
_IN_PARENTHESES = re.compile(r"[(\[]\s*([A-Za-z])\s*[)\]]")
# A letter after such a word; an `a` that another word follows may be the article, and then stands for nothing.
_NAMED = re.compile(r"\b(?:option|choice)\s*:?\s*[\"'“‘*_(\[]*([A-Za-z])(?![\w'])", re.IGNORECASE)
_ANSWER = re.compile(
    r"\banswer(?:\s+(?:is|would\s+be|should\s+be|will\s+be))?\s*:?\s*[\"'“‘*_(\[]*([A-Za-z])(?![\w'])", re.IGNORECASE
)
_CAPITAL = re.compile(r"(?<![\w'])([A-Z])(?![\w'])")
_WORD_NEXT = re.compile(r"\s+(?!(?:is|because|since|and|or)\b)\w", re.IGNORECASE)
_DENIES = re.compile(
    r"\b(?:no|not|never|neither|nor|none|without|except|cannot|wrong|incorrect)\b|n't\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Parsed:
    """What an answer was read as.

    Attributes:
        choice: place of the one choice that it means, from 0; None if it means none or cannot be told.
        kind: `choice`, `unparsed` (it names no choice) or `ambiguous` (it names several, or denies one).
    """

    choice: int | None
    kind: Literal["choice", "unparsed", "ambiguous"]

    @property
    def label(self) -> str:
        """The choice's letter, or why there is none."""
        return self.kind if self.choice is None else ascii_uppercase[self.choice]


UNPARSED, AMBIGUOUS = Parsed(None, "unparsed"), Parsed(None, "ambiguous")


def lettered(question: str, choices: Sequence[str]) -> str:
    """The question with its choices on lines of their own, as a model is asked."""
    lines = [f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)]
    return "\n".join([question, *lines, "Answer with the letter of the right choice."])


def choice_problems(choices: Any, text: Any) -> list[str]:
    """What is wrong with a row's `choices`, and with its `text` as the right one of them; one sentence each."""
    if not (isinstance(choices, list) and all(isinstance(one, str) for one in choices)):
        return ["`choices` is not a list of strings; write the possible answers, without their letters"]
    if any("\ud800" <= sign <= "\udfff" for one in choices for sign in one):
        return ["`choices` holds half of a surrogate pair, which is no character; write the text again as UTF-8"]
    if not 2 <= len(choices) <= MOST:
        return [f"`choices` has {len(choices)} entries; a question needs 2 to {MOST} of them"]
    first: dict[tuple[str, ...], int] = {}
    for index, choice in enumerate(choices):
        key = _words(choice)
        if not key:
            return [f"`choices`: {choice!r} has neither a letter nor a digit; write what the answer is"]
        if key in first:
            other = choices[first[key]]
            return [f"`choices`: {other!r} and {choice!r} read alike; keep one of them"]
        first[key] = index
    if text is None:
        return []
    letters = f"A to {ascii_uppercase[len(choices) - 1]}"
    if not isinstance(text, str):
        return ["`text` is not one string; with `choices` it is the right one of them, or its letter"]
    right = _right(text, choices)
    if not right:
        return [
            f"`text` {text!r} is none of the choices and no letter from {letters}; write the right one, or its letter"
        ]
    if len(right) > 1:
        return [f"`text` {text!r} is one choice and the letter of another; give choices that are no single letters"]
    return []


def right_choice(text: str, choices: Sequence[str]) -> int:
    """The place of the choice that a checked row's `text` names, by itself or by its letter."""
    (right,) = _right(text, choices)
    return right


def parse_answer(answer: str, choices: Sequence[str]) -> Parsed:
    """The choice that an answer names by letter, by text or by both; nothing is guessed.

    A choice's text counts where it stands in whole words, the longest first, so that `rain` inside of the choice
    `rain and wind` is not another answer. Letters are looked for in what is left: alone, as a label in front
    (`B. ...`, `(b) ...`), in parentheses, after `answer`, `option` or `choice`, or as a capital that stands by itself;
    an `A` with a word after it is taken for the article. Two choices named, a letter that there is not beside one, or
    a denial (`not B`) make it ambiguous.

    Args:
        answer: as the model wrote it; capitals count.
        choices: at least two, unlike one another.
    """
    answer = _plain(answer)
    whole = _right(answer, choices)
    if whole:
        return Parsed(whole.pop(), "choice") if len(whole) == 1 else AMBIGUOUS
    texts, rest = _choices_in(answer, choices)
    label = _LABEL.match(rest)
    letters = {_place(label[1])} if label else set()
    letters |= {_place(match[1]) for match in _IN_PARENTHESES.finditer(rest)}
    letters |= {_place(match[1]) for match in _NAMED.finditer(rest)}
    letters |= {_place(match[1]) for match in _ANSWER.finditer(rest) if not _is_article(match, answer)}
    alone = _ALONE.fullmatch(rest)
    if alone and not _is_article(alone, answer):
        letters.add(_place(alone[1]))
    bare = {_place(match[1]) for match in _CAPITAL.finditer(rest) if match[1] != "I" and not _is_article(match, answer)}
    letters |= {place for place in bare if place < len(choices)}
    named = texts | letters
    if not named:
        return UNPARSED
    if len(named) > 1 or (label is None and _DENIES.search(rest)):
        return AMBIGUOUS
    (place,) = named
    return Parsed(place, "choice") if place < len(choices) else UNPARSED


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(_plain(text).casefold()))


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("’", "'")


def _place(letter: str) -> int:
    return ascii_uppercase.index(letter.upper())


def _is_article(match: re.Match[str], text: str) -> bool:
    return match[1] in "Aa" and _WORD_NEXT.match(text, match.end(1)) is not None


def _right(text: str, choices: Sequence[str]) -> set[int]:
    """The choices that a text is, whole: by their words, or as a letter and nothing else."""
    said = _words(text)
    found = {index for index, choice in enumerate(choices) if _words(choice) == said}
    letter = _ALONE.fullmatch(text)
    if letter and _place(letter[1]) < len(choices):
        found.add(_place(letter[1]))
    return found


def _choices_in(answer: str, choices: Sequence[str]) -> tuple[set[int], str]:
    """The choices whose words stand in an answer, and the answer with blanks in their places."""
    spans = [(match.group().casefold(), *match.span()) for match in _WORD.finditer(answer)]
    taken = [False] * len(spans)
    found: set[int] = set()
    by_length = sorted(enumerate(map(_words, choices)), key=lambda item: -len(item[1]))
    for index, wanted in by_length:
        if len(wanted) == 1 and wanted[0] in _LETTERS:
            continue  # as well a letter, or the article; it counts only as the whole of an answer
        for start in range(len(spans) - len(wanted) + 1):
            here = range(start, start + len(wanted))
            if not any(taken[at] for at in here) and tuple(spans[at][0] for at in here) == wanted:
                found.add(index)
                for at in here:
                    taken[at] = True
    rest = list(answer)
    for (_, start, end), gone in zip(spans, taken, strict=True):
        if gone:
            rest[start:end] = " " * (end - start)
    return found, "".join(rest)
