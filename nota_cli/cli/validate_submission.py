"""`nota validate-submission`: a CSV against the organisers' rules, and a repaired copy of it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nota_cli.cli.options import JsonOption
from nota_cli.console import fail, out, print_json, say
from nota_cli.errors import DataError, UsageError, printable

if TYPE_CHECKING:
    from nota_cli.submission import Log, Problem, Repair, Report

MOST_LINES = 4
"""So many problems of a kind are shown; --json has more."""

app = typer.Typer()


@app.command("validate-submission", epilog="Example: `nota validate-submission submission.csv --annotation test.json`")
def validate_submission(
    csv: Annotated[
        Path | None,
        typer.Argument(help="The CSV (default: submission.csv in this folder, else the newest one in submissions/)."),
    ] = None,
    annotation: Annotated[
        list[Path] | None, typer.Option(help="Annotation JSON that the CSV answers. Repeatable.")
    ] = None,
    asr: Annotated[
        Path | None, typer.Option(help="A CSV of transcripts (together with --aac, both are checked as a pair).")
    ] = None,
    aac: Annotated[Path | None, typer.Option(help="A CSV of captions.")] = None,
    fix: Annotated[Path | None, typer.Option(help="Write a repaired copy here and say what was changed.")] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Let --fix write over the CSV itself.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Treat warnings as errors.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a CSV against the organisers' rules and more; every problem is named with its row.

    Errors make the file invalid (exit status 1); warnings are things that would be taken but look wrong.
    """
    from nota_cli.submission import examine, examine_pair, find_submission

    if in_place and fix is None:
        raise UsageError("--in-place goes with --fix; to mend the file itself: --fix SUBMISSION.csv --in-place")
    if csv is not None and (asr is not None or aac is not None):
        raise UsageError("give either one CSV or --asr and --aac, not both")
    if asr is not None and aac is not None:
        if fix is not None:
            raise UsageError("--fix repairs one file at a time; give one CSV, or only one of --asr and --aac")
        pair = examine_pair(asr, aac, annotation or [])
        logs = [pair.asr.log, pair.aac.log, pair.together]
        if as_json:
            reports = {"asr": _as_dict(pair.asr, strict), "aac": _as_dict(pair.aac, strict)}
            print_json({"valid": _valid(logs, strict), **reports, "together": _problems(pair.together)})
        else:
            show_report(pair.asr, strict)
            show_report(pair.aac, strict)
            _show_log("both together", pair.together, strict)
        _end(logs, strict)
        return
    path = csv or asr or aac
    if path is None:
        path = find_submission(Path.cwd())
        say(f"no CSV is named, so this is {printable(os.path.relpath(path))}")
    task = "asr" if asr else "aac" if aac else None
    report = examine(path, annotation or [], task)
    if fix is not None:
        _fix(report, fix, annotation or [], in_place, strict, as_json)
    elif as_json:
        print_json(_as_dict(report, strict))
    else:
        show_report(report, strict)
    if fix is None:
        _end([report.log], strict)


def _fix(report: "Report", to: Path, annotations: list[Path], in_place: bool, strict: bool, as_json: bool) -> None:
    """Repair, and judge the copy as the file was judged."""
    from nota_cli.cli.guards import check_fix
    from nota_cli.submission import examine, repair

    check_fix(to, annotations)
    try:
        done = repair(report.path, to, in_place=in_place)
    except DataError as error:
        if as_json:
            print_json({**_as_dict(report, strict), "fixed": None, "why": str(error)})
        else:
            show_report(report, strict)
            fail(str(error))
        raise typer.Exit(1) from None
    after = examine(to, annotations, report.task)
    if as_json:
        changes = [
            {"code": change.code, "line": change.line, "id": change.id, "message": change.message}
            for change in done.changes.sorted()
        ]
        fixed = {**_as_dict(after, strict), "change_counts": dict(done.changes.counts), "changes": changes}
        print_json({**_as_dict(report, strict), "fixed": fixed})
    else:
        _show_changes(done)
        show_report(after, strict, left=True)
    _end([after.log], strict)


def _valid(logs: "list[Log]", strict: bool) -> bool:
    return not any(log.of("error") or (strict and log.of("warning")) for log in logs)


def _end(logs: "list[Log]", strict: bool) -> None:
    if not _valid(logs, strict):
        raise typer.Exit(1)


def _as_dict(report: "Report", strict: bool) -> dict[str, Any]:
    from nota_cli.submission.problems import printable

    about = {"file": printable(str(report.path)), "valid": _valid([report.log], strict), "rows": report.rows}
    return about | ({"task": report.task} if report.task else {}) | _problems(report.log)


def _problems(log: "Log") -> dict[str, Any]:
    return {
        "errors": log.of("error"),
        "warnings": log.of("warning"),
        "counts": dict(log.counts),
        "problems": [problem.as_dict() for problem in log.sorted()],
    }


def show_report(report: "Report", strict: bool, left: bool = False) -> None:
    """A submission's verdict, and its problems by kind with their remedies."""
    from nota_cli.submission.problems import printable

    task = f" ({report.task})" if report.task else ""
    name = f"{printable(str(report.path))}{task}, {_count(report.rows, 'row')}"
    _show_log(name, report.log, strict, left)


def _show_log(name: str, log: "Log", strict: bool, left: bool = False) -> None:
    """A heading, then each kind of problem with its first places and its remedy, errors first."""
    from nota_cli.submission.problems import KINDS
    from nota_cli.submission.repair import MENDS

    errors, warnings = log.of("error"), log.of("warning")
    verdict = "valid" if _valid([log], strict) else "invalid"
    totals = [_count(errors, "error")] * bool(errors) + [_count(warnings, "warning")] * bool(warnings)
    if not totals:
        say(f"{name}: valid")
        return
    heading = Text.assemble(f"{name}: ", (verdict, "bold green" if verdict == "valid" else "bold red"))
    out.print(heading + Text(f", {' and '.join(totals)}{' left' if left else ''}"))
    kinds: dict[str, list[Problem]] = {}
    for problem in log.sorted():
        kinds.setdefault(problem.code, []).append(problem)
    for code in sorted(kinds, key=lambda code: KINDS[code][0] != "error"):
        severity, remedy = KINDS[code]
        style = "red" if severity == "error" else "yellow"
        _block(Text.assemble((severity, style), " ", (code, "bold")), kinds[code], log.counts[code], remedy)
    out.print()
    if not left and any(code in MENDS for code in kinds):
        hint = "nota validate-submission --fix OUT.csv writes a copy with what can be mended, and says what that was."
        out.print(hint, style="dim")


def _show_changes(done: "Repair") -> None:
    from nota_cli.submission.problems import printable

    changes = done.changes
    heading = f"{printable(str(done.out))}: written, {_count(sum(changes.counts.values()), 'change')}"
    out.print(Text(heading if changes.counts else heading.replace("0 changes", "nothing to change")))
    kinds: dict[str, list[Problem]] = {}
    for change in changes.sorted():
        kinds.setdefault(change.code, []).append(change)
    for code, listed in kinds.items():
        _block(Text.assemble(("changed", "green"), " ", (code, "bold")), listed, changes.counts[code], None)
    out.print()


def _block(title: Text, problems: "list[Problem]", count: int, remedy: str | None) -> None:
    """One kind: its title, the first places, how many more, the remedy."""
    out.print()
    out.print(title + Text(f", {count:,} times" if count > 1 else ""))
    listed = problems if count <= MOST_LINES + 1 else problems[:MOST_LINES]
    cells = [[_position(problem), problem.id or "", _message(problem)] for problem in listed]
    if count > len(listed):
        cells.append(["…" if cells[0][0] else "", "", f"and {count - len(listed):,} more"])
    used = [column for column in range(3) if any(row[column] for row in cells)]
    rows = Table.grid(padding=(0, 2))
    for column in used:
        rows.add_column(no_wrap=column < 2, max_width=16 if column == 1 else None, overflow="fold")
    for row in cells:
        rows.add_row(*(Text(row[column]) for column in used))
    out.print(Padding(rows, (0, 0, 0, 2), expand=False))
    if remedy:
        rows = Table.grid(padding=(0, 1))
        rows.add_row("→", Text(remedy), style="dim")
        out.print(Padding(rows, (0, 0, 0, 2), expand=False))


def _position(problem: "Problem") -> str:
    column = "" if problem.column is None else f":{problem.column}"
    return "" if problem.line is None else f"line {problem.line:,}{column}"


def _message(problem: "Problem") -> str:
    return problem.message + ("" if problem.byte is None else f" (byte {problem.byte:,})")


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
