"""Words as the Open ASR Leaderboard counts them in 2026: its English normalizer, rule for rule, on whisper-normalizer.

Learned from `normalizer/normalizer.py` of https://github.com/huggingface/open_asr_leaderboard; see `COMMIT`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from nota_cli.errors import DataError
from nota_cli.score.open_asr_lists import FILLERS, IN_TWO_PARTS, NAMES, SPELLINGS, TURNED_ROUND
from nota_cli.score.wer import EXTRA_REPLACEMENTS

COMMIT = "00cbc7d36e0d15792415729729566f5d2383bcdb"
"""Commit of the leaderboard's scorer, `normalizer/eval_utils.py`, that this follows.

Its word lists are those of commit 30df8c90b673, its normalizer the one that has `EnglishTimeNormalizer`.
"""
NOT_SCORED = "ignore time segment in scoring"
"""A reference that, normalized, reads so is no utterance; the leaderboard drops it, as it drops empty ones."""

_IN_BRACKETS = re.compile(r"[<\[][^>\]]*[>\]]")
_IN_PARENTHESES = re.compile(r"\([^)]+?\)")
_FILLERS = re.compile(rf"\b(?:{'|'.join(FILLERS)})\b")
_TWO_PARTS = re.compile(rf"\b(?:{'|'.join(words.replace(' ', '[ ]+') for words in IN_TWO_PARTS)})\b")
_LONG_OH = re.compile(r"\b(?:o+h+|ooo+)\b")
_INTEGER = re.compile(r"\d+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_KEPT = ".%$¢€£"
_POSSESSIVE = r"'s\b"
_IS = r"\b(it|he|she|what|that|who|here|there|how|when|where|why|this)'s\b"
"""Only after these words is `'s` short for `is`; elsewhere it may be a genitive, and becomes a word of its own."""


@dataclass(frozen=True)
class _Library:
    """What whisper-normalizer brings, prepared once."""

    numbers: Any
    clean: Callable[[str, str], str]
    replacements: list[tuple[re.Pattern[str], str]]
    titles: re.Pattern[str]  # any word of a replacement without an apostrophe
    spellings: dict[str, str]
    relative: re.Pattern[str]
    on_the_hour: re.Pattern[str]


@cache
def _library() -> _Library:
    from whisper_normalizer.basic import remove_symbols_and_diacritics
    from whisper_normalizer.english import EnglishTextNormalizer

    whisper = EnglishTextNormalizer()
    rules = {pattern: text for pattern, text in whisper.replacers.items() if pattern[2:-2] not in EXTRA_REPLACEMENTS}
    rules = {_IS if pattern == _POSSESSIVE else pattern: text for pattern, text in rules.items()}
    rules[_IS] = r"\1 is"
    table = whisper.standardize_spellings.mapping
    numbers = whisper.standardize_numbers
    units = "|".join(word for word, value in numbers.ones.items() if value < 10)
    tens = "|".join(word for word, value in numbers.tens.items() if value < 60)
    number = rf"(?:[0-9]{{1,2}}|(?:{tens})(?:[\s-]+(?:{units}))?|{'|'.join(numbers.ones)}|zero)"
    o_clock = r"o\s*['’]?\s*clock"
    return _Library(
        numbers,
        remove_symbols_and_diacritics,
        [(re.compile(pattern), text) for pattern, text in rules.items()],
        re.compile("|".join(pattern for pattern in rules if "'" not in pattern)),
        {word: spelling for word, spelling in table.items() if word not in TURNED_ROUND} | SPELLINGS,
        re.compile(
            rf"(?<![\w.:])(?P<amount>half|(?:a\s+)?quarter|{number}\s+minutes?)"
            rf"\s+(?P<relation>past|after|to|before)\s+(?P<hour>{number})(?:\s+{o_clock})?\b"
        ),
        re.compile(rf"(?<![\w.:])(?P<hour>{number})\s+{o_clock}\b"),
    )


_TIME = re.compile(r"(?<![\w:./])(?P<hour>[01]?[0-9]|2[0-3]):(?P<minute>[0-5][0-9])(?![\w:]|\.[0-9])")


def normalize(text: str) -> str:
    """`text` in lower case, without fillers and what stands in brackets, numbers and times as digits, one spelling.

    Beyond Whisper's normalizer it drops more fillers, reads times (`half past two` is `2:30`), leaves `oh` a word
    outside of digit strings, keeps a genitive's `s` apart from `is`, joins single letters (`b b c`) and
    some words in two parts (`e mail`), and gives names one spelling (`Stephen` is `steven`).

    Raises:
        DataError: a number has more digits than Python converts.
    """
    library = _library()
    text = _FILLERS.sub("", _IN_PARENTHESES.sub("", _IN_BRACKETS.sub("", text.lower())))
    text = _times(re.sub(r"\s+'", "'", text))
    apostrophe, titles = "'" in text, library.titles.search(text) is not None
    for pattern, replacement in library.replacements:
        if apostrophe if "'" in pattern.pattern else titles:
            text = pattern.sub(replacement, text)
    text = re.sub(r"(\d),(\d)", r"\1\2", text)
    text = library.clean(re.sub(r"\.(?![0-9])", " ", text), _KEPT)
    text = " ".join(text.split())
    text = _TWO_PARTS.sub(lambda match: IN_TWO_PARTS[match.group()], text)
    try:
        words = _numbers(_LONG_OH.sub("oh", text)).split()
    except (AssertionError, AttributeError, ValueError) as error:  # as Whisper's own, see `wer.normalize`
        raise DataError(f"the normalizer cannot take the text {text[:60]!r}...; shorten its numbers") from error
    words = [library.spellings.get(word, word) for word in words]
    joined = " ".join(_letters_joined([NAMES.get(word, word) for word in words]))
    return re.sub(r"(?<![0-9])%", " ", re.sub(r"[.$¢€£](?![0-9])", " ", joined))


def words(text: str) -> list[str]:
    """The words that are counted: normalized, split at white space."""
    return normalize(text).split()


def is_scored(reference: str) -> bool:
    """Whether the leaderboard counts a row: its reference has a word and is not marked to be ignored."""
    counted = words(reference)
    return bool(counted) and " ".join(counted) != NOT_SCORED


def _times(text: str) -> str:
    """`ten to five` as 4:50, `five o'clock` and `5:00` as 5."""
    library = _library()

    def relative(match: re.Match[str]) -> str:
        hour, amount = _value(match["hour"]), match["amount"]
        minute = 30 if amount == "half" else 15 if amount.endswith("quarter") else _value(amount.split("minute")[0])
        if hour > 23 or minute > 59:
            return match.group()
        if minute and match["relation"] in ("to", "before"):
            minute = 60 - minute
            hour = (hour - 2) % 12 + 1 if 1 <= hour <= 12 else (hour - 1) % 24  # 12-hour clocks stay such
        return f"{hour}:{minute:02d}"

    def on_the_hour(match: re.Match[str]) -> str:
        hour = _value(match["hour"])
        return f"{hour}:00" if hour <= 23 else match.group()

    def written(match: re.Match[str]) -> str:
        hour, minute = int(match["hour"]), int(match["minute"])
        return f"{hour}:{minute:02d}" if minute else str(hour)

    return _TIME.sub(written, library.on_the_hour.sub(on_the_hour, library.relative.sub(relative, text)))


def _value(number: str) -> int:
    """A number below 100 in digits or words: `25`, `five`, `twenty-five`."""
    known = _library().numbers
    parts = number.replace("-", " ").split()
    return sum(int(part) if part.isdigit() else (known.ones | known.tens | {"zero": 0})[part] for part in parts)


def _numbers(text: str) -> str:
    """Whisper's reading of numbers, in which `oh` is a zero only where digits go on after it.

    Digits must stand before it (`four oh one`), or two more after it (`oh seven nine`); else it is a word.
    """
    library = _library().numbers
    given = library.preprocess(text).split()
    pieces: list[str] = []
    segment: list[str] = []
    for index, word in enumerate(given):
        if word != "oh" or (segment and segment[-1] in ("double", "triple")) or _is_zero(given, index, segment):
            segment.append(word)
            continue
        # Whisper's reads it as a zero at a number's end: what stands before that zero is the number, or its sign.
        *before, last = library.process_words([*segment, "oh"])
        number = last[:-1] if re.search(r"[\d.]", last[:-1]) else last  # a number that is 0 gets no second zero
        pieces += [*before, number, "oh"] if _number_is_open(segment) else [*before, last[:-1] + "oh"]
        segment = []
    pieces += [word for word in library.process_words(segment) if word is not None]
    return str(library.postprocess(" ".join(pieces)))


def _is_zero(given: list[str], index: int, segment: list[str]) -> bool:
    known = _library().numbers
    follow = [
        word in known.zeros or word in known.ones or word in known.tens or _INTEGER.fullmatch(word) is not None
        for word in given[index + 1 : index + 3]
    ]
    return follow[:1] == [True] and (_number_is_open(segment) or follow == [True, True])


def _number_is_open(segment: list[str]) -> bool:
    """Whether Whisper's reading has a number under way after these words, when the next one is `oh`."""
    known = _library().numbers
    if not segment:
        return False
    last = segment[-1]
    if last == "and":
        return len(segment) > 1 and segment[-2] in known.multipliers
    if last == "point" or last in known.zeros or last in known.ones or last in known.tens or last in known.multipliers:
        return True
    return _NUMBER.fullmatch(last[1:] if last[0] in known.prefixes else last) is not None


def _letters_joined(given: list[str]) -> list[str]:
    """Runs of single letters and digits as one word; a run with `a` or `i` in it only from three on."""
    joined: list[str] = []
    run: list[str] = []
    for word in [*given, ""]:
        if len(word) == 1 and word.isalnum():
            run.append(word)
            continue
        joined += ["".join(run)] if len(run) >= (3 if {"a", "i"} & set(run) else 2) else run
        joined, run = [*joined, word] if word else joined, []
    return joined
