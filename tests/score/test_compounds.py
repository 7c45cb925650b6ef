"""Words written in two: the count against a slow definition, against kaldialign, and its effect on a rate."""

import importlib.util
import random
from functools import cache

import pytest

from nota_cli.score.compounds import align_compounds
from nota_cli.score.wer import align

VOCABULARIES = [["a", "b", "ab", "ba", "aab"], ["ice", "cream", "icecream", "x"], ["a", "b", "aaa", "aaaa", "aabb"]]


def _pairs(count: int) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    draw = random.Random(11)
    pairs = []
    for _ in range(count):
        vocabulary = draw.choice(VOCABULARIES)
        pairs.append(tuple(tuple(draw.choices(vocabulary, k=draw.randint(0, 7))) for _ in range(2)))
    return pairs  # type: ignore[return-value]


def _slow(hypothesis: tuple[str, ...], reference: tuple[str, ...]) -> int:
    """The definition: edit one word, or read several as one."""

    @cache
    def edits(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        best = min(
            edits(i - 1, j) + 1, edits(i, j - 1) + 1, edits(i - 1, j - 1) + (hypothesis[i - 1] != reference[j - 1])
        )
        for start in range(i - 1):
            if "".join(hypothesis[start:i]) == reference[j - 1]:
                best = min(best, edits(start, j - 1))
        for start in range(j - 1):
            if "".join(reference[start:j]) == hypothesis[i - 1]:
                best = min(best, edits(i - 1, start))
        return best

    return edits(len(hypothesis), len(reference))


def test_the_count_is_the_definitions() -> None:
    for hypothesis, reference in _pairs(400):
        found = align_compounds(hypothesis, reference)
        assert found.edits == _slow(hypothesis, reference), (hypothesis, reference)
        assert found.reference_words == len(reference)


def test_the_alignment_has_all_words_and_its_edits() -> None:
    for hypothesis, reference in _pairs(400):
        found = align_compounds(hypothesis, reference)
        steps = found.alignment()
        assert "".join(word or "" for word, _ in steps) == "".join(reference)
        assert "".join(word or "" for _, word in steps) == "".join(hypothesis)
        assert sum(one != other for one, other in steps) == found.edits
        assert found.substitutions + found.insertions + found.deletions == found.edits
        assert sum(word is None for _, word in steps) == found.deletions


@pytest.mark.skipif(importlib.util.find_spec("kaldialign") is None, reason="needs kaldialign, of the extra dev")
def test_the_count_is_kaldialigns() -> None:
    from kaldialign import edit_distance

    for hypothesis, reference in _pairs(400):
        theirs = edit_distance(reference, hypothesis, merge_compounds=True)
        assert align_compounds(hypothesis, reference).edits == theirs["total"], (hypothesis, reference)


@pytest.mark.parametrize(
    ("hypothesis", "reference", "edits", "plain"),
    [
        ("we like ice cream", "we like icecream", 0, 2),
        ("we like icecream", "we like ice cream", 0, 2),
        ("icecream any more of it", "ice cream anymore", 2, 5),
        ("a bc", "ab c", 2, 2),  # two for two is no compound
        ("whitepaper", "white paper towel", 1, 3),
        ("dogs", "dog s", 0, 2),
        ("to night", "to day", 1, 1),
    ],
)
def test_examples(hypothesis: str, reference: str, edits: int, plain: int) -> None:
    words = tuple(hypothesis.split()), tuple(reference.split())
    assert align_compounds(*words).edits == edits
    assert align(*words).edits == plain


def test_a_long_text_with_one_compound_is_quick() -> None:
    draw = random.Random(2)
    reference = tuple(draw.choices(["dog", "cat", "rain", "wind"], k=1500))
    hypothesis = (*reference[:700], "icecream", *reference[700:])
    assert align_compounds(hypothesis, (*reference[:700], "ice", "cream", *reference[700:])).edits == 0
