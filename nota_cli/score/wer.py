"""Word error rate as the organisers count it: Whisper's English normaliser, 13a tokens, no punctuation, lower case."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from nota_cli.errors import DataError

EXTRA_REPLACEMENTS = ("kinda", "sorta", "dunno", "cause")
"""Words that whisper-normalizer rewrites and the normaliser published with Whisper, the organisers' one, does not."""


@dataclass(frozen=True)
class ClipEdits:
    """Word edits (substitutions + insertions + deletions) of one clip, and the words of its reference."""

    edits: int
    reference_words: int


@dataclass(frozen=True)
class WerResult:
    """Edits over all clips and the rate they make.

    Attributes:
        edits: all word edits.
        reference_words: all reference words.
        value: edits / reference words, as a fraction (0.3 is 30%).
        per_clip: each clip's share, in order.
    """

    edits: int
    reference_words: int
    value: float
    per_clip: tuple[ClipEdits, ...]

    @property
    def printed(self) -> str:
        """The line of the organisers' scorer."""
        return f"WER: {100 * self.value:.4f}%"


@cache
def _tools() -> tuple[Callable[[str], str], Callable[[str], str]]:
    """Whisper's normaliser and the 13a tokenizer, made once; imported here so that importing this module is cheap."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    from whisper_normalizer.english import EnglishTextNormalizer

    normalizer = EnglishTextNormalizer()
    for word in EXTRA_REPLACEMENTS:
        del normalizer.replacers[rf"\b{word}\b"]
    tokenizer: Callable[[str], str] = Tokenizer13a()  # type: ignore[no-untyped-call]  # it has no annotations
    return normalizer, tokenizer


def normalise(text: str) -> str:
    """`text` after Whisper's English normaliser, without the four replacements that only whisper-normalizer makes.

    Raises:
        DataError: the normaliser itself fails (it does on numbers of more than 4,300 digits).
    """
    normalizer, _ = _tools()
    try:
        return normalizer(text)
    except (AssertionError, ValueError) as error:
        raise DataError(f"Whisper's normaliser cannot take the text {text[:60]!r}...; shorten its numbers") from error


def words(text: str) -> list[str]:
    """The words that are counted: normalised, split by sacrebleu's 13a, without punctuation-only ones, lower-cased."""
    _, tokenize = _tools()
    return [token.lower() for token in tokenize(normalise(text)).split() if not _is_punctuation(token)]


def word_edits(hypothesis: Sequence[str], reference: Sequence[str]) -> int:
    """Substitutions, insertions and deletions that turn one list of words (no spaces in them) into the other."""
    from jiwer import ReduceToListOfListOfWords, process_words

    split = ReduceToListOfListOfWords()  # at single spaces, without jiwer's own clean-up
    counts = process_words(
        " ".join(reference), " ".join(hypothesis), reference_transform=split, hypothesis_transform=split
    )
    return int(counts.substitutions + counts.insertions + counts.deletions)


def wer_as_written(pairs: Sequence[tuple[str, str]]) -> float:
    """Word errors over reference words, no normaliser: the organisers' turns `three seven one` into the word `371`.

    Args:
        pairs: hypothesis and reference of each clip.
    """
    edits = sum(word_edits(heard.split(), said.split()) for heard, said in pairs)
    return edits / max(1, sum(len(said.split()) for _, said in pairs))


def wer(hypotheses: Sequence[str], references: Sequence[str]) -> WerResult:
    """The organisers' word error rate over a corpus: all edits / all reference words.

    Args:
        hypotheses: the model's texts; empty ones count as all words deleted.
        references: as many reference texts, in the same order.

    Raises:
        DataError: the lists differ in length, or no reference has a word in it.
    """
    if len(hypotheses) != len(references):
        raise DataError(f"{len(hypotheses)} hypotheses but {len(references)} references; WER needs one of each a clip")
    clips = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        spoken = words(reference)
        clips.append(ClipEdits(word_edits(words(hypothesis), spoken), len(spoken)))
    edits = sum(clip.edits for clip in clips)
    total = sum(clip.reference_words for clip in clips)
    if total == 0:
        raise DataError("no reference has a word in it, so there is no word error rate; add reference texts")
    return WerResult(edits, total, edits / total, tuple(clips))


def _is_punctuation(token: str) -> bool:
    # Unicode's P classes only: currency signs are symbols (S) and count as words, as they do for the organisers.
    return all(unicodedata.category(character).startswith("P") for character in token)
