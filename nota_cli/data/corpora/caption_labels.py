"""The corpora whose captions are judged by labels of their own; a new one is a file beside this one and a line here."""

from collections.abc import Sequence

from nota_cli.data.corpora import esc10, fsdd
from nota_cli.data.corpora.base import Corpus
from nota_cli.errors import UsageError

CORPORA: dict[str, Corpus] = {}


def register(corpus: Corpus) -> None:
    """Add a corpus.

    Raises:
        UsageError: another one has its name, a label or its metric.
    """
    for other in CORPORA.values():
        same = other.name == corpus.name or other.labels & corpus.labels
        if same or (corpus.metric and other.metric == corpus.metric):
            raise UsageError(f"corpus {corpus.name}: its name, a label or its metric is that of corpus {other.name}")
    CORPORA[corpus.name] = corpus


def caption_metrics(captions: Sequence[str], labels: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    """How many captions name the right class, in percent, for each corpus whose labels are among `labels`.

    A label is judged by the words of its own corpus alone. One that no corpus has is judged by nothing.

    Args:
        captions: what a model answered.
        labels: the class of each clip.

    Returns:
        Percent by the metric's name, and the labels that no corpus has, sorted.
    """
    metrics: dict[str, float] = {}
    for corpus in CORPORA.values():
        label_of = corpus.label_of
        if label_of is None:
            continue
        hits = [label_of(text) == label for text, label in zip(captions, labels, strict=True) if label in corpus.labels]
        if hits:
            metrics[corpus.metric] = 100 * sum(hits) / len(hits)
    known = {label for corpus in CORPORA.values() for label in corpus.labels}
    return metrics, sorted(set(labels) - known)


def right_captions(captions: Sequence[str], labels: Sequence[str | None]) -> list[bool | None]:
    """Whether each caption names its clip's class by the words of the class's own corpus, and no other class of it.

    Args:
        captions: what a model answered.
        labels: the class of each clip, if it has one.

    Returns:
        None for a clip whose label no corpus can judge, or that has none.
    """
    judges = {
        label: corpus.label_of for corpus in CORPORA.values() if corpus.label_of is not None for label in corpus.labels
    }
    pairs = zip(captions, labels, strict=True)
    return [None if label not in judges else judges[label](text) == label for text, label in pairs]


for _corpus in (fsdd.CORPUS, esc10.CORPUS):
    register(_corpus)
