"""What systems make of the same clips: figures clip by clip, and how far one system is from another."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from nota_cli.data.annotation import FAMILY_TASK, family, read_annotation
from nota_cli.data.corpora.caption_labels import right_captions
from nota_cli.generation.repetition import is_looped
from nota_cli.score.intervals import interval, paired_interval
from nota_cli.score.report import score_clips

SAMPLES = 2_000
"""Bootstrap samples of an interval."""


@dataclass(frozen=True)
class Measure:
    """A figure: its label, its unit behind numbers, and whether less is better."""

    label: str
    unit: str
    lower: bool


MEASURES = {
    "wer": Measure("WER", "%", lower=True),
    "cider_d_x100": Measure("CIDEr-D x 100", "", lower=False),
    "right_captions": Measure("right sound", "%", lower=False),
    "exact_match": Measure("exact match", "%", lower=False),
}
PRIMARY = {"asr": ("wer",), "aac": ("right_captions", "cider_d_x100"), "qa": ("exact_match",)}
"""What stands for the quality of a task, the first that there is."""


@dataclass(frozen=True)
class Counts:
    """A figure as 100 * sum(above) / sum(below), one pair a clip: errors and words, or hits and ones."""

    above: tuple[float, ...]
    below: tuple[float, ...]

    @property
    def value(self) -> float:
        """The figure."""
        return 100 * sum(self.above) / sum(self.below)


@dataclass(frozen=True)
class Answers:
    """What a system said of a set of clips.

    Attributes:
        texts: as scored, in the annotation's order.
        looped: whether each text repeats itself, or did before it was cut.
        counts: by measure.
    """

    texts: tuple[str, ...]
    looped: tuple[bool, ...]
    counts: dict[str, Counts]

    @property
    def empty(self) -> int:
        """How many texts say nothing."""
        return sum(not text.strip() for text in self.texts)


@dataclass(frozen=True)
class Change:
    """A system's figure less another's, and the 95% interval of that, paired by clip; None for a single clip."""

    value: float
    interval: tuple[float, float] | None


def score_answers(csv: Path, annotation: Path, task: str, cut: Collection[str] = ()) -> Answers:
    """Score a CSV clip by clip: the organisers' figures, and for labeled clips whether the right sound is named.

    Args:
        csv: columns `testset_id,text`.
        annotation: with references.
        task: `asr`, `aac` or `qa`.
        cut: ids of clips whose text repeated itself and was cut (`looped` of the report beside the CSV).

    Raises:
        UsageError: a file is not there.
        DataError: a file cannot be scored.
    """
    clips = score_clips(csv, annotation, task).clips
    texts = tuple(clip.hypothesis for clip in clips)
    counts: dict[str, Counts] = {}
    ones = (1.0,) * len(clips)
    if task == "asr":
        edits = [clip.words for clip in clips if clip.words is not None]
        errors, words = tuple(each.edits for each in edits), tuple(each.reference_words for each in edits)
        counts["wer"] = Counts(errors, words)
    elif task == "qa":
        counts["exact_match"] = Counts(tuple(clip.measures["exact_match"] for clip in clips), ones)
    else:
        counts["cider_d_x100"] = Counts(tuple(clip.measures["cider_d"] for clip in clips), ones)
        rows = [row for row in read_annotation(annotation, default_task=FAMILY_TASK[task]) if family(row.task) == task]
        judged = [hit for hit in right_captions(texts, [row.label for row in rows]) if hit is not None]
        if judged:
            counts["right_captions"] = Counts(tuple(map(float, judged)), ones[: len(judged)])
    looped = tuple(clip.id in cut or is_looped(clip.hypothesis) for clip in clips)
    return Answers(texts, looped, counts)


def own_interval(counts: Counts, samples: int = SAMPLES) -> tuple[float, float] | None:
    """The 95% interval of a figure; None for a single clip."""
    return _percent(interval(counts.above, counts.below, samples))


def change(ours: Counts, theirs: Counts, samples: int = SAMPLES) -> Change:
    """How far a figure is from another system's over the same clips."""
    bounds = paired_interval(ours.above, theirs.above, ours.below, samples)
    return Change(ours.value - theirs.value, _percent(bounds))


def differing(ours: Answers, theirs: Answers) -> int:
    """How many texts are others."""
    return sum(one != other for one, other in zip(ours.texts, theirs.texts, strict=True))


def _percent(bounds: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if bounds is None else (100 * bounds[0], 100 * bounds[1])
