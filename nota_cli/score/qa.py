"""Answers to questions: exact match and the F1 of their words (Rajpurkar et al., 2016)."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class AnswerResult:
    """Shares in 0 to 1 over all clips, and each clip's values in order.

    Attributes:
        exact_match: answers equal to a reference after normalization.
        token_f1: mean harmonic mean of precision and recall of the words, order aside.
        matches: 1.0 or 0.0 for each clip.
        f1s: the F1 of each clip.
    """

    exact_match: float
    token_f1: float
    matches: tuple[float, ...]
    f1s: tuple[float, ...]


def squad_normalize(text: str) -> str:
    """`text` as SQuAD compares answers: lower case, no ASCII punctuation, no `a`, `an`, `the`, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answers(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], normalize: Callable[[str], str]
) -> AnswerResult:
    """Exact match and word F1 of answers, each against that of its references that serves it best.

    Args:
        hypotheses: the model's answers; at least one.
        references: each one's right answers, in the same order.
        normalize: what both sides go through.
    """
    matches, f1s = [], []
    for hypothesis, own in zip(hypotheses, references, strict=True):
        answer = normalize(hypothesis).strip()
        right = [normalize(reference).strip() for reference in own]
        matches.append(float(answer in right))
        f1s.append(max(_f1(answer.split(), reference.split()) for reference in right))
    count = len(hypotheses)
    return AnswerResult(sum(matches) / count, sum(f1s) / count, tuple(matches), tuple(f1s))


def _f1(hypothesis: list[str], reference: list[str]) -> float:
    """2 x shared / all words of both; two answers without a word are equal."""
    if not hypothesis and not reference:
        return 1.0
    return 2 * (Counter(hypothesis) & Counter(reference)).total() / (len(hypothesis) + len(reference))
