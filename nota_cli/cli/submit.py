"""`nota submit`: a CSV to its Kaggle competition, followed to its score."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nota_cli.cli.options import AnnotationOption, JsonOption, TaskOption, pick_task
from nota_cli.cli.validate_submission import show_report
from nota_cli.console import fail, print_json, progress, table, warn

if TYPE_CHECKING:
    pass

app = typer.Typer()


@app.command(epilog="Example: `nota submit submission.csv --competition NAME -m 'first try' --dry-run`")
def submit(
    csv: Annotated[Path, typer.Argument(help="The submission CSV.")],
    competition: Annotated[str, typer.Option(help="The last part of the competition's address on Kaggle.")],
    message: Annotated[str, typer.Option("--message", "-m", help="Description of the submission, as Kaggle lists it.")],
    annotation: AnnotationOption = None,
    task: TaskOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Validate and say what would be sent; send nothing.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for the score.")] = 600.0,
    poll_seconds: Annotated[float, typer.Option(min=0.05, help="Seconds between two checks for the score.")] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Validate a CSV, send it to its Kaggle competition and wait for the score.

    An invalid file is not sent. Credentials are read by the kaggle client alone: `kaggle auth login`, KAGGLE_API_TOKEN,
    or the files in `~/.kaggle`.
    """
    from nota_cli.leaderboard import kaggle as tool
    from nota_cli.submission import examine

    report = examine(csv, [] if annotation is None else [annotation], pick_task(task))
    request = tool.pack(csv, report.rows, competition, message)
    problems = [problem for problem in report.log.sorted() if problem.severity == "error"]
    if problems:
        if as_json:
            listed = [problem.as_dict() for problem in problems]
            print_json({"status": "invalid", "file": str(csv), "problems": listed})
        else:
            show_report(report, strict=False)
        fail(f"{csv} is not valid, so nothing was sent; nota validate-submission {csv} says more")
        raise typer.Exit(1)
    if report.log.of("warning"):
        warn(f"things that look wrong: {report.log.of('warning')}; nota validate-submission {csv} shows them")
    if dry_run:
        _show({"status": "not sent", **request.summary()}, as_json, "Would be sent")
        return
    with progress() as bar:
        bar_task = bar.add_task(competition, total=None, detail="connecting")
        outcome = tool.send(
            request,
            timeout,
            poll_seconds,
            lambda state, polls: bar.update(bar_task, completed=polls, detail=state),
        )
    _show(outcome.summary(), as_json, f"Submission to {competition}")
    if outcome.status != "complete":
        fail(f"{competition} could not score the file: {outcome.reason}")
        raise typer.Exit(1)


def _show(values: dict[str, object], as_json: bool, title: str) -> None:
    if as_json:
        print_json(values)
    else:
        rows = [[name.replace("_", " "), str(value)] for name, value in values.items() if value is not None]
        table(title, ["", ""], rows)
