"""The rows of a submission against the organisers' rules, against an annotation, and against what models get wrong."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from nota_cli.data.annotation import FAMILY_TASK, Row, family, read_annotation, row_id
from nota_cli.errors import UsageError
from nota_cli.submission.problems import ERROR, Log, Problem, printable
from nota_cli.submission.reading import INVISIBLE, Record, parse
from nota_cli.submission.texts import like_caption, suspicions

COLUMNS = ["testset_id", "text"]
READ_AS_NAN = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"]
    + ["NULL", "NaN", "None", "n/a", "nan", "null"]
)
"""Cells that `pandas.read_csv`, with which the organisers read, takes for missing values, quoted or not."""

IDS = 10_000
SEEN = 50_000
"""So many different malformed ids, and different texts, are remembered to find those that come again."""
REPEATED_ROWS, REPEATED_SHARE = 20, 0.25
CAPTIONS_ROWS, CAPTIONS_SHARE = 20, 0.6

# What pandas turns into numbers, if a whole column is so; white space round digits does not stop it.
_NUMBER = re.compile(
    r"[ \t\r\n\v\f]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t\r\n\v\f]*|[+-]?inf(inity)?", re.IGNORECASE
)
_TRUTH = re.compile(r"true|false", re.IGNORECASE)
_NEARLY_ID = re.compile(r"\s*(?:.*/)?(test[0-9]{4})(?:\.(?:wav|flac|mp3|ogg))?\s*", re.IGNORECASE | re.DOTALL)
_ID_NAMES = {"testset_id", "testsetid", "test_id", "testid", "id", "file", "name", "key"}
_TEXT_NAMES = {
    "text",
    "texts",
    "caption",
    "transcript",
    "transcription",
    "prediction",
    "answer",
    "hypothesis",
    "output",
}


@dataclass(frozen=True)
class Layout:
    """Where the columns are: `known` if the header tells, `row` if there is none and its line is a row."""

    id_at: int = 0
    text_at: int = 1
    width: int = 2
    known: bool = True
    row: bool = False

    def split(self, fields: list[str], delimiter: str) -> tuple[str, str | None]:
        """Id and text of a row; fields too many are taken for parts of the text, None stands for a missing text."""
        more = max(0, len(fields) - self.width)
        id_at = self.id_at + (more if self.id_at > self.text_at else 0)
        name = fields[id_at] if id_at < len(fields) else ""
        text = delimiter.join(fields[self.text_at : self.text_at + 1 + more]) if self.text_at < len(fields) else None
        return name, text


@dataclass
class Report:
    """What is wrong with one submission.

    Attributes:
        path: the file.
        task: `asr`, `aac`, `qa`, or None where it is not known.
        log: its problems.
        rows: how many rows it has below the header.
        texts: the text of each well-formed id.
    """

    path: Path
    task: str | None = None
    log: Log = field(default_factory=Log)
    rows: int = 0
    texts: dict[str, str] = field(default_factory=dict)


def nearly_id(name: str) -> str | None:
    """The id that was meant: odd blanks, capitals, folders and a sound file's ending are forgiven."""
    match = _NEARLY_ID.fullmatch(INVISIBLE.sub("", name))
    return match[1].lower() if match else None


def read_header(header: Record) -> Layout:
    """Where the columns are."""
    if header.fields == COLUMNS:
        return Layout()
    names = [name.strip().strip("\"'").lower() for name in header.fields]
    if all(names.count(name) == 1 for name in COLUMNS):
        return Layout(names.index("testset_id"), names.index("text"), len(names))
    if nearly_id(header.fields[0]):
        return Layout(row=True)
    return Layout(width=max(2, len(names)), known=_renamed(names))


def _renamed(names: list[str]) -> bool:
    return len(names) == 2 and names[0] in _ID_NAMES and names[1] in _TEXT_NAMES


def examine(path: Path, annotations: Sequence[Path] = (), task: str | None = None) -> Report:
    """Everything that is wrong with a submission, and everything about it that should be looked at.

    Args:
        path: the CSV.
        annotations: what it answers; several files count as one.
        task: `asr`, `aac` or `qa`: only the annotations' rows of this family are expected. Without it, those of every
            family that the CSV answers at least one row of, as each competition takes a CSV of its own.

    Raises:
        UsageError: a file is not there, or the task is none of the three.
        DataError: an annotation cannot be used.
    """
    if task is not None and task not in FAMILY_TASK:
        raise UsageError(f"unknown task {task!r}; choose one of {', '.join(FAMILY_TASK)}")
    report = Report(Path(path), task)
    log = report.log
    records = parse(report.path, log)
    header = next(records, None)
    # Ids and texts do not depend on a task, so for this purpose it does not matter which one rows without it get.
    default = FAMILY_TASK[task or "asr"]
    rows = [row for annotation in annotations for row in read_annotation(annotation, default_task=default)]
    if header is None:
        if not log.of(ERROR):
            log.add("empty-file", "the file is empty")
        return report
    layout = read_header(header)
    _header_problem(header, layout, log)
    lines: dict[str, int] = {}
    _check_rows(chain([header] if layout.row else [], records), layout, report, lines)
    if not report.rows:
        log.add("no-rows", "there are no rows below the header")
    if rows:
        _check_ids(report, lines, rows)
    return report


def validate(path: Path, annotation: Path | None = None, task: str | None = None) -> list[Problem]:
    """Everything for which the organisers, or the competition's page, would refuse a submission; empty if all is well.

    Their rules: the columns are exactly `testset_id,text`; every id is `test` and four digits; every text reads back
    from pandas as a non-empty string. Beyond them: readable UTF-8 with rows, every quote closed, and no id twice. With
    an annotation: no id missing and none that it does not have. Of a kind, the first 1,000 are listed; `examine` counts
    them all, and warns of what would be taken but looks wrong. Arguments and errors are those of `examine`.
    """
    report = examine(path, [annotation] if annotation else [], task)
    return [problem for problem in report.log.sorted() if problem.severity == ERROR]


def _header_problem(header: Record, layout: Layout, log: Log) -> None:
    if header.fields == COLUMNS:
        return
    columns = ",".join(header.fields)
    message = f"the columns are {columns[:100]!r}, not exactly {','.join(COLUMNS)!r} in this order"
    if layout.row:
        message = f"the first line is {columns[:60]!r}; the header seems to be missing"
    log.add("header", message, header.line)


def _check_rows(records: Iterable[Record], layout: Layout, report: Report, lines: dict[str, int]) -> None:
    """Problems of rows; `lines` gets the line of each id."""
    log, texts, width = report.log, report.texts, layout.width
    well_formed = frozenset(f"test{number:04d}" for number in range(IDS))
    malformed: dict[str, int] = {}
    seen: dict[str, list[int]] = {}  # text: rows that have it, the first one's line
    numbers = truths = True
    rows = captions = judged = 0
    plain = layout.width == 2 and layout.id_at == 0
    for line, fields in records:
        rows += 1
        name, text = fields if plain and len(fields) == 2 else layout.split(fields, log.delimiter)
        if name in well_formed:
            if name not in lines:
                lines[name] = line
                if text is not None:
                    texts[name] = text
            elif not log.full("duplicate-id"):
                log.add("duplicate-id", f"the id {name!r} is used twice, first in line {lines[name]:,}", line, name)
        else:
            if not log.full("bad-id"):
                log.add("bad-id", f"the id {name[:60]!r} is not `test` and four digits", line, name[:200])
            if name in malformed:
                log.add("duplicate-id", f"the id {name[:60]!r} is used twice, first in line {malformed[name]:,}", line)
            elif len(malformed) < SEEN:
                malformed[name] = line
        if len(fields) != width:
            code = "no-text" if len(fields) < width else "extra-fields"
            count = f"{len(fields)} field{'s' * (len(fields) > 1)} instead of {width}"
            log.add(code, f"{_label(name)} has {count}", line, name[:200])
            continue
        if text is None or text in READ_AS_NAN:
            if text:
                log.add("nan-text", f"{_label(name)} has the text {text!r}", line, name)
            else:
                log.add("empty-text", f"{_label(name)} has an empty text", line, name)
            continue
        judged += 1
        if numbers and not _NUMBER.fullmatch(text):
            numbers = False
        if truths and not _TRUTH.fullmatch(text):
            truths = False
        if text in seen:
            seen[text][0] += 1
        elif len(seen) < SEEN:
            seen[text] = [1, line]
        for code, message in suspicions(text):
            log.add(code, message, line, name)
        if report.task == "asr" and like_caption(text):
            captions += 1
    report.rows = rows
    lines.update((name, line) for name, line in malformed.items() if name not in lines)
    _check_column(log, judged, numbers, truths, seen)
    if captions >= CAPTIONS_ROWS and captions > CAPTIONS_SHARE * judged:
        log.add("other-task", f"{captions:,} of {judged:,} texts read like captions, and these are transcripts")


def _label(name: str) -> str:
    return name if re.fullmatch(r"test[0-9]{4}", name) else f"the row of {name[:60]!r}"


def _check_column(log: Log, judged: int, numbers: bool, truths: bool, seen: dict[str, list[int]]) -> None:
    if judged and (numbers or truths):
        # pandas makes numbers or truth values of such a column; the organisers then see no strings.
        log.add("column-type", f"every text is {'a number' if numbers else 'true or false'}")
    for text, (count, line) in seen.items():
        if count >= REPEATED_ROWS and count > REPEATED_SHARE * judged:
            message = f"{count:,} of {judged:,} rows have the text {printable(text, 60)!r}"
            log.add("repeated-text", message, line)


def families(rows: Iterable[Row]) -> dict[str, dict[str, None]]:
    """The ids of each family of tasks, in the annotation's order."""
    groups: dict[str, dict[str, None]] = {}
    for row in rows:
        groups.setdefault(family(row.task) or row.task, {})[row_id(row)] = None
    return groups


def _check_ids(report: Report, lines: dict[str, int], rows: list[Row]) -> None:
    """Ids of the CSV that the annotation lacks, and the reverse."""
    groups, task, log = families(rows), report.task, report.log
    if task is not None:
        wanted = [task] if task in groups else []
    else:
        wanted = [name for name, ids in groups.items() if any(id_ in lines for id_ in ids)] or list(groups)
    expected = dict.fromkeys(chain.from_iterable(groups[name] for name in wanted))
    others = {id_: name for name, ids in groups.items() if name not in wanted for id_ in ids}
    of_task = f" among its {task} rows" if task else ""
    strange = 0
    for name, line in lines.items():
        if name not in expected and name in report.texts:
            strange += name in others
            log.add("unknown-id", f"the id {name[:60]!r} is not in the annotation{of_task}", line, name)
    if strange and strange > len(lines) / 2 and not any(name in lines for name in expected):
        most = Counter(others[name] for name in lines if name in others).most_common(1)[0][0]
        log.add("other-task", f"the ids are those of the annotation's {most} rows, not of its {task} rows")
    for name in expected:
        if name not in lines:
            log.add("missing-id", f"{printable(name, 60)} of the annotation is missing", id=name)


def read_records(path: Path) -> tuple[list[Record], list[Problem]]:
    """Every record of a CSV, blank lines left out, and what keeps the file from being read as CSV.

    Where there is such a problem, the records may end there.

    Raises:
        UsageError: the file is not there or cannot be opened.
    """
    log = Log()
    records = list(_until_broken(parse(Path(path), log, ","), log))
    return records, [problem for problem in log.sorted() if problem.severity == ERROR]


def _until_broken(records: Iterator[Record], log: Log) -> Iterator[Record]:
    for record in records:
        if log.of(ERROR):
            return
        yield record
