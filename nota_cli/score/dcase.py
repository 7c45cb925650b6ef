"""Captions by the metrics of DCASE's captioning task: SPIDEr-FL and FENSE where they can be had, vocabulary always."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from nota_cli.console import debug
from nota_cli.errors import UsageError
from nota_cli.score.cider import cider_d

METRICS = ("meteor", "cider_d", "spice", "spider", "spider_fl", "fense")
_EXTRA = "the package aac-metrics (`pip install 'nota-cli[spider]'`) and what `aac-metrics-download` fetches"
NEEDS = {
    "meteor": f"METEOR needs Java 8 to 13, {_EXTRA}",
    "spice": f"SPICE needs Java 8 to 13, {_EXTRA}, its parser among it",
    "spider": "SPIDEr is the mean of CIDEr-D and SPICE, and SPICE is missing",
    "spider_fl": "SPIDEr-FL is SPIDEr, of which a caption with a fluency error keeps a tenth; it needs SPIDEr, and "
    f"the fluency model through {_EXTRA}",
    "fense": f"FENSE needs a sentence encoder and the fluency model through {_EXTRA}",
}
"""What each metric is missing where nothing of aac-metrics runs, in a sentence."""
OWN_TOKENS = (
    "lower case, punctuation dropped, words with their hyphens, 's apart: near to the PTB tokenizer, which needs Java"
)
_TOKEN = re.compile(r"['’]s\b|\w+(?:-\w+)*")


@dataclass
class DcaseScores:
    """What was computed, and why the rest was not.

    Attributes:
        values: metric to its corpus value, on its own scale (CIDEr-D: 0 to 10).
        statistics: of the words, in `OWN_TOKENS` whatever else is installed: `vocabulary` and
            `reference_vocabulary` (different words of all captions and of all references), `words_per_caption` and
            `words_per_reference` (means), `different_captions`.
        per_clip: metric to each clip's value; `words` among them.
        lacking: metric to what it needs.
        normalizer: what the metrics' texts went through.
        versions: of the libraries that computed them.
    """

    values: dict[str, float]
    statistics: dict[str, float]
    per_clip: dict[str, tuple[float, ...]]
    lacking: dict[str, str]
    normalizer: str
    versions: dict[str, str] = field(default_factory=dict)


def tokens(text: str) -> list[str]:
    """A caption's words: see `OWN_TOKENS`."""
    return _TOKEN.findall(text.lower())


def score(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> DcaseScores:
    """All that can be computed here.

    CIDEr-D is computed on the PTB tokenizer's words where aac-metrics and its Java can run, else on our own.

    Args:
        hypotheses: the model's captions; at least two.
        references: the references of each.

    Raises:
        DataError: fewer than two clips (CIDEr-D's idf would be 0).
    """
    from nota_cli.score.captions import TOKENIZER, standard_captions, versions

    said = [tokens(text) for text in hypotheses]
    right = [[tokens(text) for text in own] for own in references]
    every = [words for own in right for words in own]
    statistics: dict[str, float] = {
        "vocabulary": len({word for words in said for word in words}),
        "reference_vocabulary": len({word for words in every for word in words}),
        "words_per_caption": sum(map(len, said)) / len(said),
        "words_per_reference": sum(map(len, every)) / len(every),
        "different_captions": len(set(map(tuple, said))),
    }
    lengths = {"words": tuple(float(len(words)) for words in said)}
    try:
        found = standard_captions(hypotheses, references, fluency=True)
    except UsageError as error:  # no aac-metrics, or no Java for it: `NEEDS` says what to install
        debug(str(error))
        ours = cider_d([" ".join(words) for words in said], [[" ".join(words) for words in own] for own in right])
        own = {"cider_d": ours.per_clip}
        return DcaseScores({"cider_d": ours.value}, statistics, own | lengths, dict(NEEDS), OWN_TOKENS)
    values = {name: found.values[name] for name in METRICS if name in found.values}
    per_clip = {name: found.per_clip[name] for name in values}
    lacking = {name: found.lacking[name] for name in METRICS if name in found.lacking}
    return DcaseScores(values, statistics, per_clip | lengths, lacking, TOKENIZER, versions())
