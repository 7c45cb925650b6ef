"""What `nota infer` may write: nothing that it reads, and no finished CSV of another run."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nota_cli.console import say, warn
from nota_cli.data.annotation import Row, clip_paths
from nota_cli.errors import UsageError
from nota_cli.files import leavings
from nota_cli.inference.journal import journal_path, rank_journals
from nota_cli.inference.provenance import file_hash
from nota_cli.inference.report import PACKAGES, report_path
from nota_cli.outputs import Input, Output, check_outputs
from nota_cli.recipe.inputs import recipe_inputs
from nota_cli.recipe.schema import BaseRecipe
from nota_cli.submission import KINDS, examine
from nota_cli.submission.problems import ERROR, WARNING
from nota_cli.version import source_hash, versions

ODD_AUDIO = {
    "silent": "what is heard is silent, and still the model answers.",
    "loud": "samples lie far beyond full scale, which the model has never heard.",
    "damaged": "the audio is damaged, and what could be read was heard.",
}
"""What the kinds of odd audio mean for the texts."""
REPORTED_ELSEWHERE = {"no-rows", "empty-text", "blank-text"}  # the run's own warnings name these rows


def check_run_outputs(
    out: Path, recipe: BaseRecipe, annotation: Path | None, rows: Sequence[Row], audio_root: Path, processes: int = 1
) -> None:
    """Refuse a CSV that is, or whose report, journals or leavings are, something that the run reads.

    Raises:
        UsageError: naming which.
    """
    journals = [journal_path(out), *(journal_path(out, rank) for rank in range(1, processes)), *rank_journals(out)]
    paths = [out, report_path(out), *journals, *leavings(out), *leavings(report_path(out))]
    outputs = [Output("--out", path) for path in dict.fromkeys(paths)]
    check_outputs(outputs, _inputs(recipe, annotation, rows, audio_root, any(path.exists() for path in paths)))


def _inputs(
    recipe: BaseRecipe, annotation: Path | None, rows: Sequence[Row], audio_root: Path, something_is_there: bool
) -> Iterator[Input]:
    if annotation is not None:
        yield Input("the annotation", annotation)
    yield from recipe_inputs(recipe)
    for row in rows if something_is_there else ():  # nothing new can be a recording
        for path in clip_paths(row, audio_root):
            name = f"the recording of annotation row {row.index}" if row.listed else "one of the recordings"
            yield Input(name, path)


def refuse_other_run(out: Path, run_key: str) -> None:
    """Let a finished CSV be replaced by its own run alone, unless it is empty.

    Args:
        out: the CSV.
        run_key: hash of what the texts depend on, as the report beside the CSV has it.

    Raises:
        UsageError: a CSV of another run is there, or one that was changed since, or that no report tells of.
    """
    if not out.is_file() or out.stat().st_size == 0:
        return
    report = _report(report_path(out))
    if report.get("run_key") == run_key:
        if report.get("csv_hash") == file_hash(out):
            return
        why = "has been changed since this command wrote it"
    elif report:
        why = f"is of another run, as {report_path(out)} says"
    else:
        why = "was not written by this command: no report lies beside it"
    raise UsageError(f"{out} is there and {why}. Choose another --out, or replace it with --overwrite.")


def finished_report(out: Path, provenance: dict[str, Any]) -> dict[str, Any] | None:
    """The report of a finished run whose CSV stands for what the run at hand would compute, or None.

    It is None, too, where a recording or a large file of weights has changed since, where other versions of the
    packages or other code of this one would compute, and where the audio of some rows could not be used: those are
    tried again.

    Args:
        out: the CSV.
        provenance: of the run at hand, as `nota_cli.inference.provenance.run_provenance` makes it for reports.
    """
    report = _report(report_path(out))
    if not out.is_file() or report.get("blank") != [] or report.get("skipped") != []:
        return None
    same = (
        report.get("run_key") == provenance["run_key"]
        and report.get("csv_hash") == file_hash(out)
        and report.get("versions") == versions(PACKAGES)
        and report.get("code") == source_hash()
        and all(
            (report.get(section) or {}).get(key) == provenance[section][key]
            for section, key in (("test_set", "recordings"), ("checkpoint", "large_files"))
        )
    )
    return report if same else None


def _report(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or none of ours: the CSV is kept
        return {}
    return values if isinstance(values, dict) else {}


def check_submission(out: Path, task: str | None, *, named_by_path: bool = False) -> dict[str, Any]:
    """Warn of everything that `nota validate-submission` has to say of a CSV, by kind and with its number.

    Args:
        out: the CSV as it was written.
        task: `asr`, `aac` or `qa` where all rows are of one.
        named_by_path: the rows are recordings by their paths, which is no submission: of ids nothing is said.

    Returns:
        For the report: `valid`, `errors`, `warnings`, and `counts` by code.
    """
    log = examine(out, (), task).log
    first = {problem.code: problem for problem in reversed(log.sorted())}
    aside = REPORTED_ELSEWHERE | ({"bad-id"} if named_by_path else set())
    for code, count in log.counts.items():
        if code not in aside:
            severity, remedy = KINDS[code]
            verdict = "the organisers would refuse the file" if severity == ERROR else "it would be taken, but look"
            more = f", and {count - 1:,} more like it" if count > 1 else ""
            warn(f"{code}: {first[code].message}{more}; {verdict}. {remedy}")
    if log.counts.keys() - aside:
        say(f"nota validate-submission {out} lists all of them")
    errors, warnings = log.of(ERROR), log.of(WARNING)
    return {"valid": not errors, "errors": errors, "warnings": warnings, "counts": dict(log.counts)}


def warn_of_rows(out: Path, report: dict[str, Any]) -> None:
    """Warn of the rows of a finished run that its user should look at."""
    if len(report["skipped"]) == report["rows"]:
        warn(f"{out} has no row, which the organisers reject: the audio of all of them cannot be used")
    if report["empty"]:
        first_ids = ", ".join(report["empty"][:10])
        warn(f"{len(report['empty'])} rows got an empty text, which the organisers reject: {first_ids}")
    for kind, meaning in ODD_AUDIO.items():
        if odd := report[kind]:
            names = ", ".join(each["id"] for each in odd[:10]) + (", ..." if len(odd) > 10 else "")
            count = f"{len(odd)} {'row' if len(odd) == 1 else 'rows'}"
            warn(f"{count} ({names}): {meaning} The report has the files. {odd[0]['reason']}")
