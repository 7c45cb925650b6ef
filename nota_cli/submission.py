"""Submission CSVs: written whole or not at all, and judged by the organisers' rules before they are sent."""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nota_cli.data.annotation import FAMILY_TASK, Row, family, read_annotation, row_id
from nota_cli.errors import UsageError
from nota_cli.files import atomic_path

COLUMNS = ["testset_id", "text"]
READ_AS_NAN = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"]
    + ["NULL", "NaN", "None", "n/a", "nan", "null"]
)
"""Cells that `pandas.read_csv`, with which the organisers read, takes for missing values, quoted or not."""

_ID = re.compile(r"test[0-9]{4}")
# What pandas turns into numbers, if a whole column is so; white space round digits does not stop it.
_NUMBER = re.compile(
    r"[ \t\r\n\v\f]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t\r\n\v\f]*|[+-]?inf(inity)?", re.IGNORECASE
)
_TRUTH = re.compile(r"true|false", re.IGNORECASE)
_END = "\0end of file\0"  # NUL never passes `_decode`, so no record of a file can look like this one


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a submission: its line in the file (the header is line 1), the id, and what."""

    row: int | None
    id: str | None
    message: str

    def __str__(self) -> str:
        place = "" if self.row is None else f"line {self.row}: "
        return f"{place}{self.message}"


@dataclass(frozen=True)
class Record:
    """The fields of one CSV record and the line it starts at, counted from 1."""

    line: int
    fields: list[str]


def write_submission(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write (testset_id, text) pairs as a CSV that appears whole or not at all; line breaks in a text become spaces.

    Raises:
        UsageError: the folder cannot be written to.
    """
    with atomic_path(Path(path)) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
        writer.writerow(COLUMNS)
        writer.writerows((name, re.sub(r"\r\n|\r|\n", " ", text)) for name, text in rows)


def read_records(path: Path) -> tuple[list[Record], list[Problem]]:
    """Every record of a CSV, blank lines left out, and what keeps the file from being read as CSV.

    Where a quote is never closed, the record that opens it and all that follows are not among the records.

    Raises:
        UsageError: the file is not there or cannot be opened.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}. Give the path of a submission CSV.") from error
    text, problem = _decode(data)
    if problem:
        return [], [problem]
    records: list[Record] = []
    reader = csv.reader(_lines(text))
    line = 1
    try:
        for fields in reader:
            if _END in fields:
                return records, []
            if any(_END in field for field in fields):
                break
            # pandas skips lines of nothing or white space alone, but a line of one quoted nothing is a row to it.
            if len(fields) > 1 or (fields and (fields[0] == "" or fields[0].strip(" \t"))):
                records.append(Record(line, fields))
            line = reader.line_num + 1
    except csv.Error as error:
        return records, [Problem(line, None, f"cannot be read as CSV: {error}")]
    return records, [Problem(line, None, "a quote is opened here and never closed; close it or remove it")]


def validate(path: Path, annotation: Path | None = None, task: str | None = None) -> list[Problem]:
    """Everything for which the organisers, or the competition's page, would refuse a submission; empty if all is well.

    Their rules: the columns are exactly `testset_id,text`; every id is `test` and four digits; every text reads back
    from pandas as a non-empty string. Beyond them: a readable file with rows, and no id twice. With an annotation:
    no id missing and none that it does not have.

    Args:
        path: the CSV.
        annotation: the annotation that it answers.
        task: `asr`, `aac` or `qa`: only the annotation's rows of this family are expected. Without it, those of every
            family that the CSV answers at least one row of, as each competition takes a CSV of its own.

    Raises:
        UsageError: a file is not there, or the task is none of the three.
        DataError: the annotation cannot be used.
    """
    if task is not None and task not in FAMILY_TASK:
        raise UsageError(f"unknown task {task!r}; choose one of {', '.join(FAMILY_TASK)}")
    records, broken = read_records(path)
    # Ids and texts do not depend on a task, so for this purpose it does not matter which one rows without it get.
    rows = read_annotation(annotation, default_task=FAMILY_TASK[task or "asr"]) if annotation else None
    if not records:
        return broken or [Problem(None, None, f"the file is empty; it needs the header {','.join(COLUMNS)} and rows")]
    header, *answers = records
    problems = [*_header_problems(header), *broken]
    if not answers and not broken:
        problems.append(Problem(None, None, "there are no rows below the header"))
    first: dict[str, int] = {}
    for record in answers:
        problems += _record_problems(record, first)
    problems += _column_type_problems(answers)
    if rows is not None:
        problems += _id_problems(first, rows, task, complete=not broken)
    return sorted(problems, key=lambda problem: (problem.row is None, problem.row or 0))


def find_submission(folder: Path) -> Path:
    """`submission.csv` in a folder, else the newest CSV in its `submissions/`.

    Raises:
        UsageError: there is neither.
    """
    here = Path(folder) / "submission.csv"
    if here.is_file():
        return here
    found = [path for path in (Path(folder) / "submissions").glob("*.csv") if path.is_file()]
    if not found:
        raise UsageError("no submission.csv here and no CSV in submissions/. Give the path of a submission.")
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def _decode(data: bytes) -> tuple[str, Problem | None]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return "", Problem(line, None, f"not UTF-8 text (byte {error.start}); save the file as CSV in UTF-8")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        return "", Problem(line, None, "holds a NUL byte, so it is no text file; save it as CSV in UTF-8")
    return text, None


def _lines(text: str) -> Iterator[str]:
    """The text's lines and one more at the end: a record that holds it and other things swallowed it in a quote."""
    for line in io.StringIO(text, newline=""):
        yield line if line.endswith(("\n", "\r")) else line + "\n"
    yield _END


def _header_problems(header: Record) -> list[Problem]:
    if header.fields == COLUMNS:
        return []
    found = ",".join(header.fields)
    message = f"the columns are {found[:200]!r}; they must be exactly {','.join(COLUMNS)!r}, in this order"
    if len(header.fields) == 1 and ";" in found:
        message += " and with commas between"
    elif len(header.fields) == 1 and "\t" in found:
        message += " and with commas, not tabs, between"
    elif len(header.fields) == 2 and _ID.fullmatch(header.fields[0]):
        message += "; the header line seems to be missing"
    return [Problem(header.line, None, message)]


def _record_problems(record: Record, first: dict[str, int]) -> list[Problem]:
    """Problems of one row; `first` holds the line at which each id was met first and is added to."""
    line, fields = record.line, record.fields
    name = fields[0]
    problems = []
    if not _ID.fullmatch(name):
        problems.append(Problem(line, name, f"the id {name[:60]!r} is not `test` and four digits, like test0000"))
    if name in first:
        problems.append(Problem(line, name, f"the id {name[:60]!r} is used twice, first in line {first[name]}"))
    first.setdefault(name, line)
    if len(fields) < 2:
        problems.append(Problem(line, name, f"{_label(name)} has no text: 1 field instead of 2"))
    elif len(fields) > 2:
        message = f"{len(fields)} fields instead of 2; put a text that has commas in double quotes"
        problems.append(Problem(line, name, f"{_label(name)} has {message}"))
    elif fields[1] == "":
        problems.append(Problem(line, name, f"{_label(name)} has an empty text; every text must have at least a word"))
    elif fields[1] in READ_AS_NAN:
        message = f"has the text {fields[1]!r}, which pandas reads as a missing value; change the text"
        problems.append(Problem(line, name, f"{_label(name)} {message}"))
    return problems


def _label(name: str) -> str:
    return name if _ID.fullmatch(name) else f"the row of {name[:60]!r}"


def _column_type_problems(answers: list[Record]) -> list[Problem]:
    """Texts that all look like numbers or truth values become so in pandas; the organisers then see no strings."""
    texts = [record.fields[1] for record in answers if len(record.fields) == 2]
    texts = [text for text in texts if text not in READ_AS_NAN]
    for pattern, kind in ((_NUMBER, "a number"), (_TRUTH, "true or false")):
        if texts and all(pattern.fullmatch(text) for text in texts):
            message = f"every text is {kind}, so pandas reads no strings; write at least one text in words"
            return [Problem(None, None, message)]
    return []


def _id_problems(first: dict[str, int], rows: list[Row], task: str | None, *, complete: bool) -> list[Problem]:
    """Ids of the CSV (with their lines) that the annotation lacks and, if the CSV was read to its end, the reverse."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(family(row.task) or row.task, []).append(row_id(row))
    if task is not None:
        wanted = [task] if task in groups else []
    else:
        wanted = [name for name, ids in groups.items() if any(id_ in first for id_ in ids)] or list(groups)
    expected = {id_: None for name in wanted for id_ in groups[name]}  # a dict keeps the annotation's order
    of_task = f" among its {task} rows" if task else ""
    problems = [
        Problem(line, name, f"the id {name[:60]!r} is not in the annotation{of_task}")
        for name, line in first.items()
        if name not in expected
    ]
    if complete:
        missing = [name for name in expected if name not in first]
        problems += [Problem(None, name, f"{name} of the annotation is missing") for name in missing]
    return problems
