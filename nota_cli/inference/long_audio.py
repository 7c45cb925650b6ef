"""Recordings longer than a model hears at once: overlapping windows, and their texts made one."""

import math
import re
from collections.abc import Sequence
from string import punctuation

from nota_cli.errors import UsageError
from nota_cli.generation.repetition import plain_word

WINDOW_SECONDS = 30.0
OVERLAP_SECONDS = 5.0
MOST_SHARED = 40  # words looked for in an overlap: 5 s of very fast speech
SURE = 2  # words that have to agree before a differing one at the edge is given up

IN_ORDER = frozenset(
    {"asr", "asr_de", "asr_zh", "speaker_diarization_asr", "lyrics_recognition", "phone_recognition"}
    | {"translation_ec", "translation_en2de", "translation_en2ja"}
)
"""Tasks whose answers follow the recording word by word."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def windows(seconds: float, window: float = WINDOW_SECONDS, overlap: float | None = None) -> list[tuple[float, float]]:
    """Stretches `(start, stop)` in seconds that cover a recording, each beginning `overlap` before the last one's end.

    A recording that fits into one window is one; the last window ends with the recording. Where no `overlap` is given,
    it is 5 s, and a sixth of windows shorter than 30 s.

    Raises:
        UsageError: a window without length, an overlap as long as the window, or a length that is none.
    """
    overlap = min(OVERLAP_SECONDS, window / 6) if overlap is None else overlap
    if not (math.isfinite(seconds) and seconds >= 0):
        raise UsageError(f"a recording of {seconds} s cannot be divided; give its length in seconds")
    if not (window > 0 and 0 <= overlap < window):
        raise UsageError(f"windows of {window} s that overlap by {overlap} s never end; the overlap has to be shorter")
    step = window - overlap
    spans: list[tuple[float, float]] = []
    while not spans or spans[-1][1] < seconds:
        start = len(spans) * step
        spans.append((start, min(start + window, seconds)))
    return spans


def join(texts: Sequence[str], task: str = "asr") -> str:
    """The texts of overlapping windows, in order, as one.

    Transcripts are words in order: what the end of one shares with the beginning of the next is written once
    (`join_words`). Captions and answers each describe a whole window: whatever they have in common is said once
    (`join_sentences`).
    """
    return join_words(texts) if task in IN_ORDER else join_sentences(texts)


def join_segments(texts: Sequence[str], task: str = "asr") -> str:
    """The texts of segments, which do not overlap, as one: transcripts in order, of captions each sentence once."""
    if len(texts) == 1:
        return texts[0]
    return " ".join(filter(None, texts)) if task in IN_ORDER else join_sentences(texts)


def join_words(texts: Sequence[str]) -> str:
    """Transcripts joined at the longest run of words that ends one and begins the next.

    Case and punctuation may differ. A window's edge may fall into a word; so one word behind the run in the first
    text and one before it in the second may be wrong, and gives way to the other text's, if two words agree at least.
    """
    joined: list[str] = []
    for text in texts:
        words = text.split()
        last, shared, first = _overlap(joined, words)
        rest = words[first + shared :]
        if shared and rest:
            joined = joined[: len(joined) - last]
            joined[-1] = _ending_like(joined[-1], words[first + shared - 1])
        joined += rest
    return " ".join(joined)


def join_sentences(texts: Sequence[str]) -> str:
    """Every sentence of the texts once, in the order of their first appearance."""
    once: dict[str, str] = {}
    for text in texts:
        for sentence in _SENTENCE_END.split(text.strip()):
            plain = " ".join(plain_word(word) for word in sentence.split())
            if plain:
                once.setdefault(plain, " ".join(sentence.split()))
    joined = ""
    for sentence in once.values():
        joined += (" " if joined.endswith((".", "!", "?")) else ", then ") * bool(joined) + sentence
    return joined


def _overlap(before: Sequence[str], after: Sequence[str]) -> tuple[int, int, int]:
    """Words wrong at the end of `before`, words shared, words wrong at the beginning of `after`."""
    ends = [plain_word(word) for word in before[-MOST_SHARED - 1 :]]
    starts = [plain_word(word) for word in after[: MOST_SHARED + 1]]
    best = (0, 0, 0)
    for wrong in ((0, 0), (1, 0), (0, 1), (1, 1)):
        last, first = wrong
        end = len(ends) - last
        for shared in range(min(end, len(starts) - first), 0, -1):
            if shared <= best[1] or (any(wrong) and shared < SURE):
                break
            if ends[end - shared : end] == starts[first : first + shared]:
                best = (last, shared, first)
                break
    return best


def _ending_like(word: str, other: str) -> str:
    """`word` with the punctuation that `other` ends with: a window's last word may have got a full stop too many."""
    return word.rstrip(punctuation) + other[len(other.rstrip(punctuation)) :] if word.strip(punctuation) else word
