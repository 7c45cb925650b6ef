"""A submission CSV against an annotation's references: the organisers' figures, or those that papers publish."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nota_cli.data.annotation import FAMILY_TASK, Row, family, read_annotation, row_id
from nota_cli.errors import DataError, UsageError, listing
from nota_cli.score.cider import cider_d
from nota_cli.score.intervals import PERCENT, SEED, interval
from nota_cli.score.qa import answers, squad_normalize
from nota_cli.score.wer import ClipEdits, WerResult, clip_edits, normalize, plain_words, wer
from nota_cli.submission import COLUMNS, Problem, read_records
from nota_cli.submission.problems import printable
from nota_cli.version import versions

PROFILES = ("organisers", "standard")
CIDER_NOTE = "this is CIDEr-D x 100, which the organisers print under the name SPIDEr; it is not SPIDEr"
EXACT_MATCH_NOTE = "percent of answers equal to the reference after normalization; the organisers print no such figure"
WHISPER = (
    "Whisper's English normalizer as published before openai/whisper pull request 2836 of August 2026, from "
    f"whisper-normalizer {version('whisper-normalizer')} without its four rewrites of its own"
)
"""The later one keeps the 1 of `one dollar`, `one percent` and `three point one`, and so gives other rates."""
_ORGANISERS = f"{WHISPER}, sacrebleu's 13a tokens, punctuation dropped, lower case"
_LIBRARIES = ("whisper-normalizer", "sacrebleu", "jiwer", "numpy")


@dataclass(frozen=True)
class Clip:
    """One scored row.

    Attributes:
        id: of the submission.
        hypothesis: the text as scored: cut at the first end symbol, lower-cased.
        references: the row's `text`, then its further `texts`.
        words: word edits against `text`, where they are counted.
        measures: the clip's own values, on the metrics' own scales: `cider_d`, `spice`, `exact_match`, `token_f1`...
    """

    id: str
    hypothesis: str
    references: tuple[str, ...]
    words: ClipEdits | None
    measures: dict[str, float]


@dataclass(frozen=True)
class Scored:
    """The report of `score_submission` and the clips it is made of, in annotation order."""

    report: dict[str, Any]
    clips: list[Clip]


@dataclass
class _Figures:
    """What a task's scorer hands back: entries of the report, values of the clips, what they were computed with."""

    entries: dict[str, Any]
    words: Sequence[ClipEdits] | None = None
    measures: dict[str, tuple[float, ...]] = field(default_factory=dict)
    means: dict[str, tuple[str, float]] = field(default_factory=dict)  # entry -> measure whose mean it is, factor
    normalizer: str = WHISPER
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreOptions:
    """How a CSV is scored.

    Attributes:
        profile: `organisers` or `standard`.
        samples: bootstrap samples; with none the report has no `intervals`.
        end_symbols: where the decoder's texts end, for example `</s>`; what follows the first of them is cut.
    """

    profile: str = "organisers"
    samples: int = 0
    end_symbols: Sequence[str] = ()


PLAIN = ScoreOptions()


def score_submission(
    csv_path: Path | str, annotation_path: Path | str, task: str, options: ScoreOptions = PLAIN
) -> dict[str, Any]:
    """The report of `score_clips`, without the clips."""
    return score_clips(csv_path, annotation_path, task, options).report


def score_clips(csv_path: Path | str, annotation_path: Path | str, task: str, options: ScoreOptions = PLAIN) -> Scored:
    """Score a CSV: hypotheses cut at the first end symbol and lower-cased, references as they are.

    Profile `organisers` is the competition's. `standard` is what papers publish: WER with Whisper's normalizer alone;
    CIDEr-D, SPICE, SPIDEr, METEOR and FENSE through aac-metrics; answers normalized as SQuAD does.

    Args:
        csv_path: columns `testset_id,text`; empty texts count as said nothing.
        annotation_path: rows with `text`; a row without `testset_id` has the id `test` and its place in four digits.
            Further references of a row stand in its list `texts`: captions are compared with all of them, answers of
            the standard profile with the best of them, and words with `text` alone.
        task: `asr`, `aac` or `qa`; rows of other tasks are left out and counted.
        options: the profile, the bootstrap, and where texts end.

    Returns:
        In the report, for every task: `task`, `rows` (scored), `other_rows` (of the annotation, left out),
        `unknown_ids` (of the CSV, not in the annotation), `empty_texts` and `printed`; last `references` (where some
        row has several), `intervals` (the 95% intervals of the figures, bootstrapped over the clips), `profile`,
        `normalizer` and `versions`. For asr `wer` (percent), `edits`, `reference_words`; for aac `cider_d_x100`,
        `note` and the WER figures too (`wer` is None if no reference has a word in it); for qa `exact_match` and
        `token_f1` (percent) and `note`. In the standard profile aac has instead `cider_d`, `spice`, `spider`,
        `meteor` and `fense` on their own scales, as far as they could be computed, and `not_computed`, the others
        with the reason.

    Raises:
        UsageError: a file is not there, the task or the profile is none of those, or `standard` captions lack
            aac-metrics, Java or its files.
        DataError: a file cannot be read, the CSV lacks ids or has one twice, references are missing, no reference has
            a word in it (asr), or there are fewer than two clips (aac).
    """
    if task not in FAMILY_TASK:
        raise UsageError(f"unknown task {task!r}; choose one of {', '.join(FAMILY_TASK)}")
    if options.profile not in PROFILES:
        raise UsageError(f"unknown profile {options.profile!r}; choose one of {', '.join(PROFILES)}")
    rows = read_annotation(annotation_path, default_task=FAMILY_TASK[task])
    wanted = [row for row in rows if family(row.task) == task]
    if not wanted:
        raise DataError(f"{annotation_path}: none of its {len(rows)} rows belongs to task {task}; choose another task")
    given = _answers(Path(csv_path))
    hypotheses = [_cut(text, options.end_symbols).lower() for text in _join(wanted, given, csv_path)]
    references = _references(wanted, annotation_path)
    known = {row_id(row) for row in rows}
    try:
        figures = _SCORERS[task, options.profile](hypotheses, references)
    except DataError as error:
        origin = _unreadable(wanted, hypotheses, references, csv_path, annotation_path)
        raise DataError(f"{origin}: {error}") from error
    report = {
        "task": task,
        "rows": len(wanted),
        "other_rows": len(rows) - len(wanted),
        "unknown_ids": sum(name not in known for name in given),
        "empty_texts": sum(not text.strip() for text in hypotheses),
        **figures.entries,
    }
    several = task == "aac" or (task == "qa" and options.profile == "standard")
    if several and any(len(own) > 1 for own in references):
        report["references"] = sum(map(len, references))
    if options.samples and len(wanted) > 1:
        report["intervals"] = _intervals(figures, options.samples)
    report |= {
        "profile": options.profile,
        "normalizer": figures.normalizer,
        "versions": versions(_LIBRARIES) | figures.versions,
    }
    clips = [
        Clip(
            row_id(row),
            hypotheses[i],
            references[i],
            figures.words[i] if figures.words else None,
            {name: values[i] for name, values in figures.measures.items()},
        )
        for i, row in enumerate(wanted)
    ]
    return Scored(report, clips)


References = list[tuple[str, ...]]


def _speech(hypotheses: list[str], references: References) -> _Figures:
    result = wer(hypotheses, [own[0] for own in references])
    return _Figures(_counted(result), words=result.per_clip, normalizer=_ORGANISERS)


def _standard_speech(hypotheses: list[str], references: References) -> _Figures:
    result = wer(hypotheses, [own[0] for own in references], plain_words)
    return _Figures(_counted(result), words=result.per_clip)


def _counted(result: WerResult) -> dict[str, Any]:
    rate = {"wer": 100 * result.value, "edits": result.edits, "reference_words": result.reference_words}
    return {"printed": result.printed, **rate}


def _captions(hypotheses: list[str], references: References) -> _Figures:
    captions = cider_d(hypotheses, references)
    words = clip_edits(hypotheses, [own[0] for own in references])
    edits, total = sum(clip.edits for clip in words), sum(clip.reference_words for clip in words)
    rate = {"wer": 100 * (edits / total) if total else None, "edits": edits, "reference_words": total}
    return _Figures(
        {"printed": captions.printed, "cider_d_x100": 100 * captions.value, "note": CIDER_NOTE, **rate},
        words=words,
        measures={"cider_d": captions.per_clip},
        means={"cider_d_x100": ("cider_d", 100)},
        normalizer=f"captions: none; WER: {_ORGANISERS}",
    )


def _standard_captions(hypotheses: list[str], references: References) -> _Figures:
    from nota_cli.score.captions import METRICS, standard_captions, versions

    scores = standard_captions(hypotheses, references)
    values = {name: scores.values[name] for name in METRICS if name in scores.values}
    printed = ", ".join(f"{LABELS[name]}: {value:.4f}" for name, value in values.items())
    return _Figures(
        {"printed": printed, **values, "not_computed": scores.lacking},
        measures=scores.per_clip,
        means={name: (name, 1) for name in values if name != "meteor"},  # METEOR's is not the mean of its clips'
        normalizer="PTB tokenizer of Stanford CoreNLP 3.4.1 (lower case, punctuation dropped)",
        versions=versions(),
    )


def _questions(normalizer: str, normal: Callable[[str], str], several: bool) -> Callable[..., _Figures]:
    def score(hypotheses: list[str], references: References) -> _Figures:
        result = answers(hypotheses, references if several else [own[:1] for own in references], normal)
        right = int(sum(result.matches))
        share = 100 * right / len(references)
        return _Figures(
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

    return score


LABELS = {"cider_d": "CIDEr-D", "spice": "SPICE", "spider": "SPIDEr", "meteor": "METEOR", "fense": "FENSE"}
_SQUAD = "SQuAD's: lower case, no ASCII punctuation, no a/an/the"
_SCORERS: dict[tuple[str, str], Callable[[list[str], References], _Figures]] = {
    ("asr", "organisers"): _speech,
    ("asr", "standard"): _standard_speech,
    ("aac", "organisers"): _captions,
    ("aac", "standard"): _standard_captions,
    ("qa", "organisers"): _questions(WHISPER, normalize, several=False),
    ("qa", "standard"): _questions(_SQUAD, squad_normalize, several=True),
}


def _intervals(figures: _Figures, samples: int) -> dict[str, Any]:
    """Low and high of each figure; CIDEr-D's clips are drawn with the values they have, idf as in the whole corpus."""
    bounds: dict[str, Any] = {}
    if figures.words:
        edits, words = [clip.edits for clip in figures.words], [clip.reference_words for clip in figures.words]
        bounds["wer"] = _scaled(interval(edits, words, samples), 100)
    for entry, (measure, factor) in figures.means.items():
        values = figures.measures[measure]
        bounds[entry] = _scaled(interval(values, [1.0] * len(values), samples), factor)
    return bounds | {"percent": PERCENT, "samples": samples, "seed": SEED}


def _scaled(bounds: tuple[float, float] | None, factor: float) -> list[float] | None:
    return None if bounds is None else [factor * bound for bound in bounds]


def _answers(path: Path) -> dict[str, str]:
    """Id to text. What only the competition forbids (odd ids, empty texts) is scored all the same."""
    records, problems = read_records(path)
    if records and records[0].fields != COLUMNS:
        columns = printable(",".join(records[0].fields), 60)
        message = f"the columns must be exactly {','.join(COLUMNS)}, and are {columns}"
        problems.append(Problem(records[0].line, None, message))
        records = []  # by another header, or another separator, no row can be judged
    answers: dict[str, str] = {}
    for record in records[1:]:
        if len(record.fields) != 2:
            count = len(record.fields)
            problems.append(Problem(record.line, None, f"{count} field{'s' * (count != 1)} instead of 2"))
        elif record.fields[0] in answers:
            problems.append(Problem(record.line, None, f"the id {record.fields[0]!r} is used twice"))
        else:
            answers[record.fields[0]] = record.fields[1]
    if not records and not problems:
        problems.append(Problem(None, None, "the file is empty"))
    if problems:
        lines = listing([str(problem) for problem in problems])
        remedy = f"`nota validate-submission {path}` says more; with --fix OUT.csv it mends what can be mended."
        raise DataError(f"{path} cannot be scored:\n{lines}\n{remedy}")
    return answers


def _join(rows: list[Row], answers: dict[str, str], path: Path | str) -> list[str]:
    missing = [f"{row_id(row)} (row {row.index} of the annotation)" for row in rows if row_id(row) not in answers]
    if missing:
        raise DataError(f"{path} lacks {len(missing)} of {len(rows)} ids; add their rows:\n{listing(missing)}")
    return [answers[row_id(row)] for row in rows]


def _references(rows: list[Row], path: Path | str) -> list[tuple[str, ...]]:
    """Each row's `text`, and the further wordings that it has under `texts`."""
    lacking = [f"row {row.index} ({row_id(row)})" for row in rows if row.text is None]
    if lacking:
        raise DataError(f"{path}: {len(lacking)} rows have no `text` to score against:\n{listing(lacking)}")
    return [tuple(dict.fromkeys((row.text, *row.texts))) for row in rows if row.text is not None]


def _unreadable(
    rows: list[Row], hypotheses: list[str], references: References, csv_path: Path | str, annotation_path: Path | str
) -> str:
    """Where the text stands that the normalizer cannot take; both files where the fault is none of one text."""
    for row, hypothesis, own in zip(rows, hypotheses, references, strict=True):
        for text, file in ((hypothesis, csv_path), *((text, annotation_path) for text in own)):
            try:
                normalize(text)
            except DataError:
                return f"{file}, {row_id(row)}"
    return f"{csv_path} against {annotation_path}"


def _cut(text: str, end_symbols: Sequence[str]) -> str:
    """The text up to the first of the end symbols; an empty symbol ends nothing."""
    for symbol in end_symbols:
        if symbol:
            text = text.partition(symbol)[0]
    return text
