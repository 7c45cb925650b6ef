"""CIDEr-D: every golden row to the last digit, and an independent slow implementation."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nota_cli.errors import DataError
from nota_cli.score.cider import cider_d

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "score.json").read_text(encoding="utf-8"))
ROWS = GOLDEN["rows"]


def test_equals_every_golden_row_to_the_last_digit():
    result = cider_d([row["hyp"] for row in ROWS], [row["ref"] for row in ROWS])
    assert list(result.per_clip) == [row["cider_d"] for row in ROWS]
    assert result.value == GOLDEN["cider_d"]
    assert result.printed == "SPIDEr: 486.9333" == GOLDEN["printed"][1]


def _slow_cider_d(hypotheses, references):
    """The paper's formula over explicit vocabularies, one clip and one order at a time."""

    def occurrences(text, order):
        tokens = text.split()
        return [" ".join(tokens[i : i + order]) for i in range(len(tokens)) if i + order <= len(tokens)]

    values = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        difference = len(hypothesis.split()) - len(reference.split())
        cosines = []
        for order in (1, 2, 3, 4):
            said, meant = occurrences(hypothesis, order), occurrences(reference, order)
            vocabulary = sorted({*said, *meant})
            rarity = {
                ngram: math.log(
                    len(references) / max(1, sum(ngram in occurrences(other, order) for other in references))
                )
                for ngram in vocabulary
            }
            g_hyp = [said.count(ngram) * rarity[ngram] for ngram in vocabulary]
            g_ref = [meant.count(ngram) * rarity[ngram] for ngram in vocabulary]
            norm = math.hypot(*g_hyp) * math.hypot(*g_ref)
            dot = sum(min(a, b) * b for a, b in zip(g_hyp, g_ref, strict=True))
            cosines.append(dot / norm if norm else 0.0)
        values.append(10 * math.exp(-(difference**2) / 72) * sum(cosines) / 4)
    return values


CAPTION = st.lists(st.sampled_from(["a", "dog", "barks", "rain", "Rain", "loudly"]), max_size=8).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(CAPTION, CAPTION), min_size=2, max_size=6))
def test_equals_a_slow_implementation(pairs):
    hypotheses, references = map(list, zip(*pairs, strict=True))
    result = cider_d(hypotheses, references)
    expected = _slow_cider_d(hypotheses, references)
    assert result.per_clip == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert result.value == pytest.approx(sum(expected) / len(expected), rel=1e-9, abs=1e-12)


def test_the_references_themselves_reach_the_scale():
    captions = ["a dog barks loudly", "rain falls on roof tiles"]
    assert cider_d(captions, captions).per_clip == pytest.approx((10.0, 10.0))


def test_nothing_is_lower_cased_or_tokenized():
    references = ["A dog barks, twice", "rain falls on a roof"]
    assert cider_d(["a dog barks twice", ""], references).per_clip[0] < 5


def test_one_clip_is_refused():
    with pytest.raises(DataError, match="at least two clips"):
        cider_d(["a dog"], ["a dog"])


def test_lists_of_unlike_length_are_refused():
    with pytest.raises(DataError, match="3 hypotheses but 2 references"):
        cider_d(["a", "b", "c"], ["a", "b"])
