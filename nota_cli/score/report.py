"""A submission CSV against an annotation's references: the organisers' figures, or those that papers publish."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nota_cli.data.annotation import FAMILY_TASK, Row, family, read_annotation, row_id
from nota_cli.errors import DataError, UsageError, listing
from nota_cli.score.intervals import PERCENT, SEED, interval
from nota_cli.score.profiles import Figures, References, Texts, check_profile, compute, profiles_of
from nota_cli.score.wer import ClipEdits, normalize
from nota_cli.submission import COLUMNS, Problem, read_records
from nota_cli.submission.problems import printable
from nota_cli.version import versions

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
        parsed: the letter of the choice that the answer names, `unparsed` or `ambiguous`; None if no row has choices.
    """

    id: str
    hypothesis: str
    references: tuple[str, ...]
    words: ClipEdits | None
    measures: dict[str, float]
    parsed: str | None = None


@dataclass(frozen=True)
class Scored:
    """The report of `score_submission` and the clips it is made of, in annotation order."""

    report: dict[str, Any]
    clips: list[Clip]


@dataclass(frozen=True)
class ScoreOptions:
    """How a CSV is scored.

    Attributes:
        profile: one of `PROFILES`.
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
    CIDEr-D, SPICE, SPIDEr, METEOR and FENSE through aac-metrics; answers normalized as SQuAD does. `open-asr` is the
    Open ASR Leaderboard's WER, `dcase` DCASE's figures of captions as far as they can be computed here.

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
        `normalizer` and `versions`. For asr `wer` (percent), `edits`, `reference_words`, and in the profile open-asr
        `wer_without_merging` and `left_out` (rows whose reference has no word); for aac `cider_d_x100`,
        `note` and the WER figures too (`wer` is None if no reference has a word in it); for qa `exact_match` and
        `token_f1` (percent) and `note`, and where rows have choices `accuracy` (percent, of `choice_rows`), `chance`
        (percent), `unparsed`, `ambiguous` (rows) and `unparsed_share` (percent, both). In the profiles standard and
        dcase aac has instead `cider_d`, `spice`, `spider`, `meteor`, `fense` and (dcase) `spider_fl` on their own
        scales, as far as they could be computed, and `not_computed`, the others with the reason; in dcase what
        `DcaseScores.statistics` lists, too.

    Raises:
        UsageError: a file is not there, the task or the profile is none of those, the task does not have the
            profile, or `standard` captions lack aac-metrics, Java or its files.
        DataError: a file cannot be read, the CSV lacks ids or has one twice, references are missing, no reference has
            a word in it (asr), or there are fewer than two clips (aac).
    """
    _check_task(task)
    check_profile(task, options.profile)
    return _scored(_read(csv_path, annotation_path, task, options), options.profile, options.samples)


def score_all(
    csv_path: Path | str, annotation_path: Path | str, task: str, options: ScoreOptions = PLAIN
) -> tuple[dict[str, Any], Scored]:
    """The same texts by every profile that the task has.

    Args:
        csv_path: as for `score_clips`, as are the others; the options' profile is not looked at.
        annotation_path: see there.
        task: see there.
        options: see there.

    Returns:
        A report with `task`, `rows`, `profiles` (the report of `score_clips` for each) and `not_computed` (profile to
        the reason); and what the first profile gives.

    Raises:
        UsageError: as `score_clips`, but for a profile that lacks a package.
        DataError: as `score_clips`.
    """
    _check_task(task)
    given = _read(csv_path, annotation_path, task, options)
    scored: dict[str, Scored] = {}
    lacking: dict[str, str] = {}
    for profile in profiles_of(task):
        try:
            scored[profile] = _scored(given, profile, options.samples)
        except UsageError as error:  # of the packages that it wants; the texts are read already
            lacking[profile] = str(error)
    reports = {profile: each.report for profile, each in scored.items()}
    whole = {"task": task, "rows": len(given.rows), "profiles": reports, "not_computed": lacking}
    return whole, next(iter(scored.values()))


@dataclass(frozen=True)
class _Given:
    """A CSV and its annotation, joined: where they are from, the rows scored, their texts, what was left out."""

    csv_path: Path | str
    annotation_path: Path | str
    task: str
    rows: list[Row]
    texts: Texts
    other_rows: int
    unknown_ids: int


def _check_task(task: str) -> None:
    if task not in FAMILY_TASK:
        raise UsageError(f"unknown task {task!r}; choose one of {', '.join(FAMILY_TASK)}")


def _read(csv_path: Path | str, annotation_path: Path | str, task: str, options: ScoreOptions) -> _Given:
    rows = read_annotation(annotation_path, default_task=FAMILY_TASK[task])
    wanted = [row for row in rows if family(row.task) == task]
    if not wanted:
        raise DataError(f"{annotation_path}: none of its {len(rows)} rows belongs to task {task}; choose another task")
    given = _answers(Path(csv_path))
    raw = [_cut(text, options.end_symbols) for text in _join(wanted, given, csv_path)]
    references = _references(wanted, annotation_path)
    texts = Texts([text.lower() for text in raw], raw, references, [row.choices for row in wanted])
    known = {row_id(row) for row in rows}
    unknown = sum(name not in known for name in given)
    return _Given(csv_path, annotation_path, task, wanted, texts, len(rows) - len(wanted), unknown)


def _scored(given: _Given, profile: str, samples: int) -> Scored:
    task, texts = given.task, given.texts
    try:
        figures = compute(task, profile, texts)
    except DataError as error:
        origin = _unreadable(given.rows, texts.hypotheses, texts.references, given.csv_path, given.annotation_path)
        raise DataError(f"{origin}: {error}") from error
    report = {
        "task": task,
        "rows": len(given.rows),
        "other_rows": given.other_rows,
        "unknown_ids": given.unknown_ids,
        "empty_texts": sum(not text.strip() for text in texts.hypotheses),
        **figures.entries,
    }
    several = task == "aac" or (task == "qa" and profile == "standard")
    if several and any(len(own) > 1 for own in texts.references):
        report["references"] = sum(map(len, texts.references))
    if samples and len(given.rows) > 1:
        report["intervals"] = _intervals(figures, samples)
    report |= {
        "profile": profile,
        "normalizer": figures.normalizer,
        "versions": versions(_LIBRARIES) | figures.versions,
    }
    clips = [
        Clip(
            row_id(row),
            texts.hypotheses[i],
            texts.references[i],
            figures.words[i] if figures.words else None,
            {name: values[i] for name, values in figures.measures.items()},
            figures.parsed[i] if figures.parsed else None,
        )
        for i, row in enumerate(given.rows)
    ]
    return Scored(report, clips)


def _intervals(figures: Figures, samples: int) -> dict[str, Any]:
    """Low and high of each figure; CIDEr-D's clips are drawn with the values they have, idf as in the whole corpus."""
    bounds: dict[str, Any] = {}
    if figures.words:
        edits, words = [clip.edits for clip in figures.words], [clip.reference_words for clip in figures.words]
        bounds["wer"] = _scaled(interval(edits, words, samples), 100)
    for entry, (measure, factor) in figures.means.items():
        values = figures.measures[measure]
        bounds[entry] = _scaled(interval(values, [1.0] * len(values), samples), factor)
    for entry, (numerators, denominators, factor) in figures.shares.items():
        bounds[entry] = _scaled(interval(numerators, denominators, samples), factor)
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
