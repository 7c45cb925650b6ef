"""Word error rate: the organisers' count (Whisper's normalizer, 13a tokens, no punctuation) and the plain one."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from nota_cli.errors import DataError

EXTRA_REPLACEMENTS = ("kinda", "sorta", "dunno", "cause")
"""Words that whisper-normalizer rewrites and the normalizer published with Whisper, the organisers' one, does not."""

KINDS = {"substitute": "replace", "insert": "insert", "delete": "delete"}
"""jiwer's names of edits, and ours."""
Splitter = Callable[[str], list[str]]
Step = tuple[str | None, str | None]
"""One place of an alignment: reference word and hypothesis word, None where the other side stands alone."""


@dataclass(frozen=True)
class ClipEdits:
    """Word edits of one clip.

    Attributes:
        edits: substitutions + insertions + deletions, the least number of them.
        reference_words: words of the reference.
        substitutions: of one way to make so few edits, as are the next two.
        insertions: words that only the hypothesis has.
        deletions: words that only the reference has.
        hypothesis: its words, as counted.
        reference: its words, as counted.
        steps: the alignment, where another rule than the plain one counted the edits.
    """

    edits: int
    reference_words: int
    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0
    hypothesis: tuple[str, ...] = ()
    reference: tuple[str, ...] = ()
    steps: tuple[Step, ...] | None = None

    def alignment(self) -> list[Step]:
        """Both sides word by word, in order."""
        if self.steps is not None:
            return list(self.steps)
        operations = _operations(self.hypothesis, self.reference)
        steps: list[Step] = []
        at = other_at = 0
        for kind, position, other in (*operations, ("end", len(self.reference), len(self.hypothesis))):
            while at < position:  # words that are equal, up to the next edit
                steps.append((self.reference[at], self.hypothesis[other_at]))
                at, other_at = at + 1, other_at + 1
            if kind == "replace":
                steps.append((self.reference[position], self.hypothesis[other]))
            elif kind == "delete":
                steps.append((self.reference[position], None))
            elif kind == "insert":
                steps.append((None, self.hypothesis[other]))
            at, other_at = at + (kind in ("replace", "delete")), other_at + (kind in ("replace", "insert"))
        return steps


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
    """Whisper's normalizer and the 13a tokenizer, made once; imported here so that importing this module is cheap."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    from whisper_normalizer.english import EnglishTextNormalizer

    whole, brief = EnglishTextNormalizer(), EnglishTextNormalizer()
    for word in EXTRA_REPLACEMENTS:
        del whole.replacers[rf"\b{word}\b"]
    # Its fifty replacements take half of the time. Each is of a whole word or has an apostrophe in it; a text that has
    # neither, nor brackets (which vanish and may join what is beside them), goes through the normalizer without them.
    brief.replacers = {}
    plain = [pattern[2:-2] for pattern in whole.replacers if re.fullmatch(r"\\b\w+\\b", pattern)]
    needed = [re.escape(mark) for mark in "'([<"] + [rf"\b(?:{'|'.join(plain)})\b"]
    if not all("'" in pattern for pattern in whole.replacers if pattern[2:-2] not in plain):
        needed = [""]  # another version of the package: take no short cut
    needs_all = re.compile("|".join(needed))

    def normalizer(text: str) -> str:
        return str((whole if needs_all.search(text.lower()) else brief)(text))

    tokenizer: Callable[[str], str] = Tokenizer13a()  # type: ignore[no-untyped-call]  # it has no annotations
    return normalizer, tokenizer


def normalize(text: str) -> str:
    """`text` after Whisper's English normalizer, without the four replacements that only whisper-normalizer makes.

    Raises:
        DataError: the normalizer itself fails (it does on numbers of more than 4,300 digits).
    """
    normalizer, _ = _tools()
    try:
        return normalizer(text)
    except (AssertionError, AttributeError, ValueError) as error:  # its assertions are gone under `python -O`
        raise DataError(f"Whisper's normalizer cannot take the text {text[:60]!r}...; shorten its numbers") from error


def words(text: str) -> list[str]:
    """The words that are counted: normalized, split by sacrebleu's 13a, without punctuation-only ones, lower-cased."""
    _, tokenize = _tools()
    return [token.lower() for token in tokenize(normalize(text)).split() if not _is_punctuation(token)]


def plain_words(text: str) -> list[str]:
    """The words of `text` after Whisper's normalizer alone, split at white space: what most published rates count."""
    return normalize(text).split()


def word_edits(hypothesis: Sequence[str], reference: Sequence[str]) -> int:
    """Substitutions, insertions and deletions that turn one list of words into the other, as few as will do."""
    return len(_operations(hypothesis, reference))


def wer_as_written(pairs: Sequence[tuple[str, str]]) -> float:
    """Word errors over reference words, no normalizer: the organisers' turns `three seven one` into the word `371`.

    Args:
        pairs: hypothesis and reference of each clip.
    """
    edits = sum(word_edits(hypothesis.split(), reference.split()) for hypothesis, reference in pairs)
    return edits / max(1, sum(len(reference.split()) for _, reference in pairs))


def wer(hypotheses: Sequence[str], references: Sequence[str], split: Splitter = words) -> WerResult:
    """The word error rate over a corpus: all edits / all reference words.

    Args:
        hypotheses: the model's texts; empty ones count as all words deleted.
        references: as many reference texts, in the same order.
        split: a text's words; the organisers', unless `plain_words` is given.

    Raises:
        DataError: the lists differ in length, or no reference has a word in it.
    """
    clips = clip_edits(hypotheses, references, split)
    edits = sum(clip.edits for clip in clips)
    total = sum(clip.reference_words for clip in clips)
    if total == 0:
        raise DataError("no reference has a word in it, so there is no word error rate; add reference texts")
    return WerResult(edits, total, edits / total, clips)


def clip_edits(hypotheses: Sequence[str], references: Sequence[str], split: Splitter = words) -> tuple[ClipEdits, ...]:
    """Each clip's edits, as `wer` counts them; here no reference needs to have a word in it.

    Raises:
        DataError: the lists differ in length.
    """
    if len(hypotheses) != len(references):
        raise DataError(f"{len(hypotheses)} hypotheses but {len(references)} references; WER needs one of each a clip")
    pairs = zip(hypotheses, references, strict=True)
    return tuple(align(tuple(split(hypothesis)), tuple(split(reference))) for hypothesis, reference in pairs)


def align(hypothesis: tuple[str, ...], reference: tuple[str, ...]) -> ClipEdits:
    """The fewest edits that turn one side's words into the other's, each word for itself."""
    kinds = [kind for kind, _, _ in _operations(hypothesis, reference)]
    counts = (kinds.count("replace"), kinds.count("insert"), kinds.count("delete"))
    return ClipEdits(len(kinds), len(reference), *counts, hypothesis, reference)


def _operations(hypothesis: Sequence[str], reference: Sequence[str]) -> list[tuple[str, int, int]]:
    """The edits in order: `replace`, `insert` or `delete`, and the places in reference and hypothesis."""
    if list(hypothesis) == list(reference):
        return []
    if not reference:  # which jiwer refuses
        return [("insert", 0, index) for index in range(len(hypothesis))]
    from jiwer import ReduceToListOfListOfWords, process_words

    split = ReduceToListOfListOfWords()  # at single spaces, without jiwer's own clean-up
    chunks = process_words(" ".join(reference), " ".join(hypothesis), split, split).alignments[0]
    operations = []
    for chunk in chunks:
        if chunk.type == "equal":
            continue
        count = max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        steps = (chunk.type in ("substitute", "delete"), chunk.type in ("substitute", "insert"))
        for index in range(count):
            at, other = chunk.ref_start_idx + index * steps[0], chunk.hyp_start_idx + index * steps[1]
            operations.append((KINDS[chunk.type], at, other))
    return operations


def _is_punctuation(token: str) -> bool:
    # Unicode's P classes only: currency signs are symbols (S) and count as words, as they do for the organisers.
    return all(unicodedata.category(character).startswith("P") for character in token)
