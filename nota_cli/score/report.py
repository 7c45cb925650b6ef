"""A submission CSV against an annotation's references: the figures that the organisers' scorer prints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nota_cli.data.annotation import FAMILY_TASK, Row, family, read_annotation, row_id
from nota_cli.errors import DataError, UsageError, listing
from nota_cli.score.cider import cider_d
from nota_cli.score.wer import normalise, wer
from nota_cli.submission import COLUMNS, Problem, read_records

CIDER_NOTE = "this is CIDEr-D x 100, which the organisers print under the name SPIDEr; it is not SPIDEr"
EXACT_MATCH_NOTE = "percent of answers equal to the reference after normalisation; the organisers print no such figure"


def score_submission(
    csv_path: Path | str, annotation_path: Path | str, task: str, end_symbols: Sequence[str] = ()
) -> dict[str, Any]:
    """Score a CSV as the organisers do: hypotheses cut at the first end symbol and lower-cased, references as they are.

    Args:
        csv_path: columns `testset_id,text`; empty texts count as said nothing.
        annotation_path: rows with `text`; a row without `testset_id` has the id `test` and its place in four digits.
        task: `asr`, `aac` or `qa`; rows of other tasks are left out and counted.
        end_symbols: where the decoder's texts end, for example `</s>`.

    Returns:
        For every task `task`, `rows` (scored), `other_rows` (of the annotation, left out), `unknown_ids` (of the CSV,
        not in the annotation), `empty_texts` and `printed`. For asr `wer` (percent), `edits`, `reference_words`; for
        aac `cider_d_x100`, `note` and the WER figures too; for qa `exact_match` (percent) and `note`.

    Raises:
        UsageError: a file is not there, or the task is none of the three.
        DataError: a file cannot be read, the CSV lacks ids or has one twice, or references are missing.
    """
    if task not in FAMILY_TASK:
        raise UsageError(f"unknown task {task!r}; choose one of {', '.join(FAMILY_TASK)}")
    rows = read_annotation(annotation_path, default_task=FAMILY_TASK[task])
    wanted = [row for row in rows if family(row.task) == task]
    if not wanted:
        raise DataError(f"{annotation_path}: none of its {len(rows)} rows belongs to task {task}; choose another task")
    answers = _answers(Path(csv_path))
    hypotheses = [_cut(text, end_symbols).lower() for text in _join(wanted, answers, csv_path)]
    references = _references(wanted, annotation_path)
    known = {row_id(row) for row in rows}
    return {
        "task": task,
        "rows": len(wanted),
        "other_rows": len(rows) - len(wanted),
        "unknown_ids": sum(name not in known for name in answers),
        "empty_texts": sum(not text.strip() for text in hypotheses),
        **_figures(task, hypotheses, references),
    }


def _figures(task: str, hypotheses: list[str], references: list[str]) -> dict[str, Any]:
    if task == "qa":
        pairs = zip(hypotheses, references, strict=True)
        right = sum(normalise(hypothesis).strip() == normalise(reference).strip() for hypothesis, reference in pairs)
        share = 100 * right / len(references)
        return {"exact_match": share, "printed": f"Exact match: {share:.4f}%", "note": EXACT_MATCH_NOTE}
    words = wer(hypotheses, references)
    counted = {"wer": 100 * words.value, "edits": words.edits, "reference_words": words.reference_words}
    if task == "asr":
        return {"printed": words.printed, **counted}
    captions = cider_d(hypotheses, references)
    return {"printed": captions.printed, "cider_d_x100": 100 * captions.value, "note": CIDER_NOTE, **counted}


def _answers(path: Path) -> dict[str, str]:
    """Id to text. What only the competition forbids (odd ids, empty texts) is scored all the same."""
    records, problems = read_records(path)
    if records and records[0].fields != COLUMNS:
        problems.append(Problem(records[0].line, None, f"the columns must be exactly {','.join(COLUMNS)}"))
    answers: dict[str, str] = {}
    for record in records[1:]:
        if len(record.fields) != 2:
            problems.append(Problem(record.line, None, f"{len(record.fields)} fields instead of 2"))
        elif record.fields[0] in answers:
            problems.append(Problem(record.line, None, f"the id {record.fields[0]!r} is used twice"))
        else:
            answers[record.fields[0]] = record.fields[1]
    if not records and not problems:
        problems.append(Problem(None, None, "the file is empty"))
    if problems:
        raise DataError(f"{path} cannot be scored:\n{listing([str(problem) for problem in problems])}")
    return answers


def _join(rows: list[Row], answers: dict[str, str], path: Path | str) -> list[str]:
    missing = [f"{row_id(row)} (row {row.index} of the annotation)" for row in rows if row_id(row) not in answers]
    if missing:
        raise DataError(f"{path} lacks {len(missing)} of {len(rows)} ids; add their rows:\n{listing(missing)}")
    return [answers[row_id(row)] for row in rows]


def _references(rows: list[Row], path: Path | str) -> list[str]:
    lacking = [f"row {row.index} ({row_id(row)})" for row in rows if row.text is None]
    if lacking:
        raise DataError(f"{path}: {len(lacking)} rows have no `text` to score against:\n{listing(lacking)}")
    return [row.text for row in rows if row.text is not None]


def _cut(text: str, end_symbols: Sequence[str]) -> str:
    """The text up to the first of the end symbols; an empty symbol ends nothing."""
    for symbol in end_symbols:
        if symbol:
            text = text.partition(symbol)[0]
    return text
