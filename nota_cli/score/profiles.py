"""What each profile computes for each task, on texts that are read already."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from nota_cli.data.choices import Parsed, parse_answer, right_choice
from nota_cli.errors import DataError, UsageError
from nota_cli.score import dcase, open_asr
from nota_cli.score.cider import cider_d
from nota_cli.score.compounds import align_compounds
from nota_cli.score.qa import answers, squad_normalize
from nota_cli.score.wer import ClipEdits, WerResult, align, clip_edits, normalize, plain_words, wer

PROFILES = ("organisers", "standard", "open-asr", "dcase")
ALL = "all"
"""Every profile that the task has, side by side."""
CIDER_NOTE = "this is CIDEr-D x 100, which the organisers print under the name SPIDEr; it is not SPIDEr"
EXACT_MATCH_NOTE = "percent of answers equal to the reference after normalization; the organisers print no such figure"
CHOICES_NOTE = "accuracy counts the rows with choices; an answer that names none of them, or several, counts as wrong"
WHISPER = (
    "Whisper's English normalizer as published before openai/whisper pull request 2836 of August 2026, from "
    f"whisper-normalizer {version('whisper-normalizer')} without its four rewrites of its own"
)
"""The later one keeps the 1 of `one dollar`, `one percent` and `three point one`, and so gives other rates."""
_ORGANISERS = f"{WHISPER}, sacrebleu's 13a tokens, punctuation dropped, lower case"
_OPEN_ASR = (
    f"the Open ASR Leaderboard's English normalizer (commit {open_asr.COMMIT[:12]}), a word in two parts equal to the "
    "word in one"
)
_SQUAD = "SQuAD's: lower case, no ASCII punctuation, no a/an/the"
LABELS = {
    "cider_d": "CIDEr-D",
    "spice": "SPICE",
    "spider": "SPIDEr",
    "spider_fl": "SPIDEr-FL",
    "meteor": "METEOR",
    "fense": "FENSE",
}
References = list[tuple[str, ...]]


@dataclass(frozen=True)
class Texts:
    """What is scored, row by row.

    Attributes:
        hypotheses: cut at the first end symbol and lower-cased, as the organisers do.
        raw: the same before they are lower-cased.
        references: each row's `text`, then its further `texts`; as they are.
        choices: the answers that a row's question offers, or none.
    """

    hypotheses: list[str]
    raw: list[str]
    references: References
    choices: list[tuple[str, ...]]


@dataclass
class Figures:
    """What a profile hands back: entries of the report, values of the clips, what they were computed with.

    Attributes:
        entries: of the report.
        words: each clip's word edits, where they are counted.
        measures: each clip's own values, by metric.
        means: entry that is the mean of a measure -> the measure and a factor.
        shares: entry that is a share of some of the clips -> numerator and denominator of each clip, and a factor.
        parsed: what each clip's answer was read as, where there are choices.
        normalizer: what the texts went through.
        versions: of libraries beside those that every report names.
    """

    entries: dict[str, Any]
    words: Sequence[ClipEdits] | None = None
    measures: dict[str, tuple[float, ...]] = field(default_factory=dict)
    means: dict[str, tuple[str, float]] = field(default_factory=dict)
    shares: dict[str, tuple[list[float], list[float], float]] = field(default_factory=dict)
    parsed: list[str] | None = None
    normalizer: str = WHISPER
    versions: dict[str, str] = field(default_factory=dict)


def compute(task: str, profile: str, texts: Texts) -> Figures:
    """The figures of one profile.

    Raises:
        UsageError: the profile is unknown or scores another task, or `standard` captions lack aac-metrics, Java or
            its files.
        DataError: no figure can be made of the texts.
    """
    check_profile(task, profile)
    return _SCORERS[task, profile](texts)


def profiles_of(task: str) -> list[str]:
    """The profiles that a task has."""
    return [profile for profile in PROFILES if (task, profile) in _SCORERS]


def check_profile(task: str, profile: str) -> None:
    """Refuse a profile that is unknown, or that the task does not have.

    Raises:
        UsageError: it is so.
    """
    if profile not in PROFILES:
        raise UsageError(f"unknown profile {profile!r}; choose one of {', '.join((*PROFILES, ALL))}")
    if profile not in profiles_of(task):
        (only,) = {scored for scored, name in _SCORERS if name == profile}
        raise UsageError(
            f"profile {profile} scores task {only} alone; for {task} choose one of "
            f"{', '.join((*profiles_of(task), ALL))}"
        )


def _speech(texts: Texts) -> Figures:
    result = wer(texts.hypotheses, [own[0] for own in texts.references])
    return Figures(_counted(result), words=result.per_clip, normalizer=_ORGANISERS)


def _standard_speech(texts: Texts) -> Figures:
    result = wer(texts.hypotheses, [own[0] for own in texts.references], plain_words)
    return Figures(_counted(result), words=result.per_clip)


def _open_asr_speech(texts: Texts) -> Figures:
    clips, plain = [], 0
    left_out = 0
    for hypothesis, own in zip(texts.hypotheses, texts.references, strict=True):
        if not open_asr.is_scored(own[0]):
            clips.append(ClipEdits(0, 0))
            left_out += 1
            continue
        heard, reference = tuple(open_asr.words(hypothesis)), tuple(open_asr.words(own[0]))
        clips.append(align_compounds(heard, reference))
        plain += align(heard, reference).edits if clips[-1].steps else clips[-1].edits
    total = sum(clip.reference_words for clip in clips)
    if not total:
        raise DataError("no reference has a word in it, so there is no word error rate; add reference texts")
    edits = sum(clip.edits for clip in clips)
    entries = _counted(WerResult(edits, total, edits / total, tuple(clips)))
    entries |= {"wer_without_merging": 100 * plain / total, "left_out": left_out}
    return Figures(entries, words=clips, normalizer=_OPEN_ASR)


def _counted(result: WerResult) -> dict[str, Any]:
    rate = {"wer": 100 * result.value, "edits": result.edits, "reference_words": result.reference_words}
    return {"printed": result.printed, **rate}


def _captions(texts: Texts) -> Figures:
    captions = cider_d(texts.hypotheses, texts.references)
    words = clip_edits(texts.hypotheses, [own[0] for own in texts.references])
    edits, total = sum(clip.edits for clip in words), sum(clip.reference_words for clip in words)
    rate = {"wer": 100 * (edits / total) if total else None, "edits": edits, "reference_words": total}
    return Figures(
        {"printed": captions.printed, "cider_d_x100": 100 * captions.value, "note": CIDER_NOTE, **rate},
        words=words,
        measures={"cider_d": captions.per_clip},
        means={"cider_d_x100": ("cider_d", 100)},
        normalizer=f"captions: none; WER: {_ORGANISERS}",
    )


def _standard_captions(texts: Texts) -> Figures:
    from nota_cli.score.captions import METRICS, TOKENIZER, standard_captions, versions

    scores = standard_captions(texts.hypotheses, texts.references)
    values = {name: scores.values[name] for name in METRICS if name in scores.values}
    return Figures(
        {"printed": _printed(values), **values, "not_computed": scores.lacking},
        measures=scores.per_clip,
        means=_means(values),
        normalizer=TOKENIZER,
        versions=versions(),
    )


def _dcase_captions(texts: Texts) -> Figures:
    scores = dcase.score(texts.hypotheses, texts.references)
    return Figures(
        {
            "printed": _printed(scores.values),
            **scores.values,
            **scores.statistics,
            "not_computed": scores.lacking,
        },
        measures=scores.per_clip,
        means=_means(scores.values) | {"words_per_caption": ("words", 1)},
        normalizer=scores.normalizer,
        versions=scores.versions,
    )


def _printed(values: dict[str, float]) -> str:
    return ", ".join(f"{LABELS[name]}: {value:.4f}" for name, value in values.items())


def _means(values: dict[str, float]) -> dict[str, tuple[str, float]]:
    return {name: (name, 1.0) for name in values if name != "meteor"}  # METEOR's is not the mean of its clips'


def _questions(normalizer: str, normal: Callable[[str], str], several: bool) -> Callable[[Texts], Figures]:
    def score(texts: Texts) -> Figures:
        references = texts.references if several else [own[:1] for own in texts.references]
        result = answers(texts.hypotheses, references, normal)
        right = int(sum(result.matches))
        share = 100 * right / len(references)
        figures = Figures(
            {
                "exact_match": share,
                "printed": f"Exact match: {share:.4f}%",
                "note": EXACT_MATCH_NOTE,
                "token_f1": 100 * result.token_f1,
            },
            measures={"exact_match": result.matches, "token_f1": result.f1s},
            means={"exact_match": ("exact_match", 100), "token_f1": ("token_f1", 100)},
            normalizer=normalizer,
        )
        if any(texts.choices):
            _add_choices(figures, texts)
        return figures

    return score


def _add_choices(figures: Figures, texts: Texts) -> None:
    """Accuracy over the rows with choices, and how many of their answers could not be told."""
    parsed: list[Parsed | None] = []
    right = []
    for raw, own, choices in zip(texts.raw, texts.references, texts.choices, strict=True):
        answer = parse_answer(raw, choices) if choices else None
        parsed.append(answer)
        right.append(float(answer is not None and answer.choice == right_choice(own[0], choices)))
    offered = [float(bool(choices)) for choices in texts.choices]
    rows = int(sum(offered))
    kinds = [each.kind for each in parsed if each is not None]
    unparsed, ambiguous = kinds.count("unparsed"), kinds.count("ambiguous")
    accuracy = 100 * sum(right) / rows
    figures.entries |= {
        "printed": f"Accuracy: {accuracy:.4f}% ({unparsed + ambiguous} of {rows} answers name no one choice)",
        "note": CHOICES_NOTE,
        "accuracy": accuracy,
        "choice_rows": rows,
        "chance": 100 * sum(1 / len(choices) for choices in texts.choices if choices) / rows,
        "unparsed": unparsed,
        "ambiguous": ambiguous,
        "unparsed_share": 100 * (unparsed + ambiguous) / rows,
    }
    figures.shares["accuracy"] = (right, offered, 100)
    figures.parsed = ["" if each is None else each.label for each in parsed]


_SCORERS: dict[tuple[str, str], Callable[[Texts], Figures]] = {
    ("asr", "organisers"): _speech,
    ("asr", "standard"): _standard_speech,
    ("asr", "open-asr"): _open_asr_speech,
    ("aac", "organisers"): _captions,
    ("aac", "standard"): _standard_captions,
    ("aac", "dcase"): _dcase_captions,
    ("qa", "organisers"): _questions(WHISPER, normalize, several=False),
    ("qa", "standard"): _questions(_SQUAD, squad_normalize, several=True),
}
