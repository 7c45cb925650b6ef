"""CIDEr-D (Vedantam et al., 2015) as the organisers compute it: words split on white space, nothing else done."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nota_cli.errors import DataError

ORDERS = 4  # n-grams of 1 to 4 words
SIGMA = 6.0  # width in words of the penalty on unlike lengths
SCALE = 10.0

Ngram = tuple[str, ...]


@dataclass(frozen=True)
class CiderResult:
    """The mean over clips, on CIDEr-D's own scale (0 to 10), and each clip's value in order."""

    value: float
    per_clip: tuple[float, ...]

    @property
    def printed(self) -> str:
        """The line of the organisers' scorer, which calls CIDEr-D x 100 SPIDEr."""
        return f"SPIDEr: {100 * self.value:.4f}"


@dataclass(frozen=True)
class _Weights:
    """A text's tf-idf weights and their Euclidean norm for each n-gram order, and its length in words."""

    by_order: list[dict[Ngram, float]]
    norms: list[float]
    length: int


def cider_d(hypotheses: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]]) -> CiderResult:
    """CIDEr-D over a corpus; nothing is lower-cased or tokenized, and idf comes from these references.

    Args:
        hypotheses: the model's captions.
        references: each clip's reference caption, or its several ones; in the same order. A clip's value is the mean
            over its references, and a word is as rare as the clips are few that have it in any of theirs.

    Raises:
        DataError: the lists differ in length, a clip has no reference, or there are fewer than two clips (every idf
            would be 0).
    """
    if len(hypotheses) != len(references):
        raise DataError(f"{len(hypotheses)} hypotheses but {len(references)} references; CIDEr-D needs one of each")
    if len(references) < 2:
        raise DataError("CIDEr-D weighs words by how rare they are among the references: give it at least two clips")
    every = [(given,) if isinstance(given, str) else given for given in references]
    if not all(every):
        raise DataError(f"clip {[bool(given) for given in every].index(False)} (counted from 0) has no reference")
    counted = [[_ngrams(text) for text in texts] for texts in every]
    clips_with: Counter[Ngram] = Counter()
    for own in counted:
        clips_with.update(set().union(*own))  # once a clip, however many of its references have it
    log_clips = math.log(len(references))
    logs = {clips: math.log(clips) for clips in set(clips_with.values())}
    idf = {ngram: log_clips - logs[clips] for ngram, clips in clips_with.items()}
    per_clip = []
    for hypothesis, own in zip(hypotheses, counted, strict=True):
        weights = _weigh(_ngrams(hypothesis), idf, log_clips)
        by_order = [0.0] * ORDERS
        for counts in own:
            for order, value in enumerate(_similarities(weights, _weigh(counts, idf, log_clips))):
                by_order[order] += value
        total = 0.0
        for value in by_order:  # not `sum`, which newer Pythons round otherwise
            total += value
        per_clip.append(SCALE * float(total / ORDERS / len(own)))
    return CiderResult(float(np.mean(per_clip)), tuple(per_clip))


def _ngrams(text: str) -> Counter[Ngram]:
    """How often each n-gram of 1 to 4 words occurs, in order of length and then place."""
    tokens = text.split()
    return Counter(
        tuple(tokens[start : start + order])
        for order in range(1, ORDERS + 1)
        for start in range(len(tokens) - order + 1)
    )


def _weigh(counts: Counter[Ngram], idf: dict[Ngram, float], unseen: float) -> _Weights:
    """tf-idf weights; an n-gram that no reference has weighs as if one had it."""
    by_order: list[dict[Ngram, float]] = [{} for _ in range(ORDERS)]
    squares = [0.0] * ORDERS
    length = 0
    for ngram, count in counts.items():
        order = len(ngram) - 1
        weight = count * idf.get(ngram, unseen)
        by_order[order][ngram] = weight
        squares[order] += weight**2
        length += count if order == 0 else 0
    return _Weights(by_order, [math.sqrt(square) for square in squares], length)


def _similarities(hypothesis: _Weights, reference: _Weights) -> list[float]:
    """For each order the clipped cosine times the length penalty, in 0 to 1."""
    difference = float(hypothesis.length - reference.length)
    penalty = np.e ** (-(difference**2) / (2 * SIGMA**2))
    values = []
    for order in range(ORDERS):
        shared = reference.by_order[order]
        product = 0.0
        for ngram, weight in hypothesis.by_order[order].items():
            other = shared.get(ngram)
            if other is not None:
                product += min(weight, other) * other
        norms = hypothesis.norms[order] * reference.norms[order]
        if norms != 0:
            product /= norms
        values.append(product * penalty)
    return values
