"""A thousand random corpora against slow implementations of the tests' own: equal to the last digit."""

import math
import random
from decimal import Decimal, getcontext

import pytest

from nota_cli.score.cider import cider_d
from nota_cli.score.wer import clip_edits, normalize, plain_words, wer, word_edits, words

CASES = 1000
WORDS = """a dog barks rain Rain loudly the wind and won't Mr. it's two hundred 20% ... !? — ， $5 naïve œuvre
犬が吠える 🐕 [noise] (um uh) o'clock colour mr dr twenty first 5,000 3.14 ¢ I'd gonna st <x y'all ' 's ß İ"""
VOCABULARY = [*WORDS.split(), "\u00a0"]


def _corpora():
    """Corpora of 2 to 5 clips: texts of 0 to 9 words, some hypotheses close to their reference, 1 to 3 references."""
    draw = random.Random(11)

    def text(most=9):
        few = draw.sample(VOCABULARY, 6) if draw.random() < 0.5 else VOCABULARY  # words that come again
        return " ".join(draw.choice(few) for _ in range(draw.randint(0, most)))

    for _ in range(CASES):
        references = [[text() for _ in range(draw.choice([1, 1, 2, 3]))] for _ in range(draw.randint(2, 5))]
        hypotheses = []
        for own in references:
            kept = [word for word in draw.choice(own).split() if draw.random() < 0.8]
            hypotheses.append(draw.choice(["", text(), " ".join(kept), " ".join([*kept, text(3)])]))
        yield hypotheses, references


def _edits(hypothesis, reference):
    """The textbook's table, every cell, no band, no bit tricks."""
    table = [[0] * (len(hypothesis) + 1) for _ in range(len(reference) + 1)]
    for i in range(len(reference) + 1):
        for j in range(len(hypothesis) + 1):
            if i == 0 or j == 0:
                table[i][j] = i + j
            else:
                changed = table[i - 1][j - 1] + (reference[i - 1] != hypothesis[j - 1])
                table[i][j] = min(changed, table[i - 1][j] + 1, table[i][j - 1] + 1)
    return table[-1][-1]


def _definition(hypotheses, references):
    """CIDEr-D by its definition over plain lists: one order, one reference, one n-gram at a time."""
    clips = len(references)

    def grams(text, order):
        tokens = text.split()
        return ["\0".join(tokens[i : i + order]) for i in range(len(tokens) + 1 - order)]

    def weight(own, gram, order):
        having = sum(any(gram in grams(text, order) for text in texts) for texts in references)
        return own.count(gram) * (math.log(clips) - math.log(max(1, having)))

    def norm(own, order):
        total = 0.0
        for gram in dict.fromkeys(own):
            total += weight(own, gram, order) ** 2
        return math.sqrt(total)

    values = []
    for hypothesis, texts in zip(hypotheses, references, strict=True):
        of_orders = 0.0
        for order in (1, 2, 3, 4):
            of_references = 0.0
            for text in texts:
                said, meant = grams(hypothesis, order), grams(text, order)
                dot = 0.0
                for gram in dict.fromkeys(said):
                    here, there = weight(said, gram, order), weight(meant, gram, order)
                    dot += min(here, there) * there
                norms = norm(said, order) * norm(meant, order)
                difference = float(len(hypothesis.split()) - len(text.split()))
                of_references += (dot / norms if norms else dot) * math.e ** (-(difference**2) / 72.0)
            of_orders += of_references
        values.append(10.0 * (of_orders / 4 / len(texts)))
    return values


def test_word_error_rate_equals_the_full_table():
    for hypotheses, references in _corpora():
        first = [texts[0] for texts in references]
        for split in (words, plain_words):
            pairs = [(split(said), split(right)) for said, right in zip(hypotheses, first, strict=True)]
            expected = [_edits(*pair) for pair in pairs]
            clips = clip_edits(hypotheses, first, split)
            assert [clip.edits for clip in clips] == expected
            assert [clip.reference_words for clip in clips] == [len(right) for _, right in pairs]
            total = sum(len(right) for _, right in pairs)
            if total:
                assert wer(hypotheses, first, split).value == sum(expected) / total


def test_cider_d_equals_the_definition():
    for hypotheses, references in _corpora():
        expected = _definition(hypotheses, references)
        result = cider_d(hypotheses, references)
        assert list(result.per_clip) == expected
        total = 0.0
        for value in expected:
            total += value
        assert result.value == total / len(expected)


def test_cider_d_is_exact_to_twelve_digits():
    """The same definition in fifty digits: what is lost to rounding shows in no printed figure."""
    getcontext().prec = 50
    for number, (hypotheses, references) in enumerate(_corpora()):
        if number == 100:
            break
        exact = [_precise(i, hypotheses, references) for i in range(len(hypotheses))]
        assert cider_d(hypotheses, references).per_clip == pytest.approx([float(value) for value in exact], abs=1e-12)


def _precise(index, hypotheses, references):
    def counted(text, order):
        tokens = text.split()
        found = {}
        for i in range(len(tokens) + 1 - order):
            gram = tuple(tokens[i : i + order])
            found[gram] = found.get(gram, 0) + 1
        return found

    def weights(text, order):
        def rarity(gram):
            having = sum(any(gram in counted(other, order) for other in texts) for texts in references)
            return (Decimal(len(references)) / max(1, having)).ln()

        return {gram: times * rarity(gram) for gram, times in counted(text, order).items()}

    total = Decimal(0)
    for text in references[index]:
        difference = len(hypotheses[index].split()) - len(text.split())
        penalty = (Decimal(-(difference**2)) / 72).exp()
        for order in (1, 2, 3, 4):
            said, meant = weights(hypotheses[index], order), weights(text, order)
            norms = Decimal(1)
            for side in (said, meant):
                norms *= sum((w * w for w in side.values()), Decimal(0)).sqrt()
            dot = sum((min(w, meant.get(gram, 0)) * meant.get(gram, 0) for gram, w in said.items()), Decimal(0))
            total += penalty * dot / norms if norms else 0
    return 10 * total / 4 / len(references[index])


def test_alignment_is_made_of_the_counted_edits():
    for hypotheses, references in _corpora():
        for clip in clip_edits(hypotheses, [texts[0] for texts in references]):
            steps = clip.alignment()
            assert tuple(said for said, _ in steps if said is not None) == clip.reference
            assert tuple(heard for _, heard in steps if heard is not None) == clip.hypothesis
            assert sum(said != heard for said, heard in steps) == clip.edits
            assert sum(None not in step and step[0] != step[1] for step in steps) == clip.substitutions
            assert sum(said is None for said, _ in steps) == clip.insertions
            assert sum(heard is None for _, heard in steps) == clip.deletions
            assert clip.substitutions + clip.insertions + clip.deletions == clip.edits


def test_the_normaliser_s_short_cut_changes_nothing():
    """Against the package itself, all of its replacements tried on every text."""
    from whisper_normalizer.english import EnglishTextNormalizer

    whole = EnglishTextNormalizer()
    for word in ("kinda", "sorta", "dunno", "cause"):
        del whole.replacers[rf"\b{word}\b"]
    draw = random.Random(3)
    plain = sorted({pattern.replace(r"\b", "") for pattern in whole.replacers})
    marks = [" ", " ", " ", "-", "'", "_", ".", "(", ")", "[", "]", "<", ">", "uh", " hmm ", "", "̈"]
    for _ in range(3000):
        pieces = draw.choices([*plain, *VOCABULARY], k=draw.randint(1, 6))
        text = "".join(piece + draw.choice(marks) for piece in pieces)
        assert normalize(text) == whole(text)


def test_unlike_words_never_count_as_equal():
    # One letter and its code point, words that are equal after folding, and the empty list.
    assert word_edits(["a", "\u0061\u0308", "ä"], ["97", "ä", "ä"]) == 2
    assert word_edits([], []) == 0
