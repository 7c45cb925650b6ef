"""Commands on the way to the leaderboard: runs ranked side by side, and a CSV sent to its competition."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nota_cli.cli_options import AnnotationOption, JsonOption, TaskOption, pick_task
from nota_cli.cli_submission import show_report
from nota_cli.console import fail, print_json, progress, say, table, warn
from nota_cli.console import out as terminal
from nota_cli.errors import UsageError

if TYPE_CHECKING:
    from nota_cli.compare import Standing

leaderboard_app = typer.Typer()


@leaderboard_app.command(epilog="Example: `nota compare runs/mine runs/smaller --out leaderboard`")
def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="A score or efficiency report, a folder of them, or NAME=FILE,FILE."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weights in place of the competition's (wer 1, spider 1, memory 2, latency 2, qa 1): qa=0,wer=2."
        ),
    ] = None,
    missing: Annotated[
        str, typer.Option(help="A missing figure is ranked last: worst; or its run not at all: skip.")
    ] = "worst",
    references: Annotated[bool, typer.Option(help="With the figures that the seed systems' teams reported.")] = True,
    out: Annotated[Path | None, typer.Option(help="Folder for compare.md, compare.csv and compare.png.")] = None,
    plot: Annotated[bool, typer.Option(help="Draw compare.png too, which needs matplotlib.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Rank runs as the competition did: the weighted sum of their ranks, less is better.

    Reports are what `nota score --json` and `nota efficiency --out` write. Those of a folder are one run; others are
    joined by their names: `mine-asr.json`, `mine-aac.json`, `mine-efficiency.json`.
    """
    from nota_cli import compare as tool
    from nota_cli.compare_runs import read_runs
    from nota_cli.guards import check_compare

    weighed = tool.parse_weights(weights)
    if not runs and not references:
        raise UsageError("nothing to compare: give reports or folders, or leave --no-references out")
    found = [*read_runs(runs or []), *(tool.reference_runs() if references else [])]
    standings = tool.standings(found, weighed, missing)
    if out is not None:
        check_compare(out, [file for run in found for file in run.files])
        _write(out, standings, weighed, missing, plot)
    notes, cautions = tool.explain(standings, weighed, missing), tool.cautions(found)
    if as_json:
        ranked = [tool.record(one) for one in standings]
        print_json({"weights": weighed, "missing": missing, "runs": ranked, "notes": notes, "cautions": cautions})
        return
    _show_ranks(standings)
    for line in notes:
        say(line)
    for line in cautions:
        warn(line)


def _show_ranks(standings: "list[Standing]") -> None:
    """One table, or one of ranks and one of figures where the terminal is too narrow for both together."""
    from nota_cli.compare import cells

    heads, rows = cells(standings)
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    if sum(widths) + 3 * len(widths) + 1 <= terminal.width:
        table("Weighted ranks, best first", heads, rows)
    else:
        table("Weighted ranks, best first", *cells(standings, content="ranks"))
        table("Figures", *cells(standings, content="figures"))


def _write(out: Path, standings: "list[Standing]", weights: dict[str, float], missing: str, plot: bool) -> None:
    from nota_cli import compare as tool
    from nota_cli.files import write_text

    for name in ("compare.md", "compare.csv", "compare.png"):
        if (out / name).is_dir():
            raise UsageError(f"cannot write {out / name}: it is a folder. Choose another output path.")
    if plot:
        from nota_cli.compare_plot import check_matplotlib, draw

        check_matplotlib()  # so that nothing is written where it is not there
    write_text(out / "compare.md", tool.markdown(standings, weights, missing))
    write_text(out / "compare.csv", tool.csv_text(standings))
    drawn = False
    if plot:
        try:
            draw(standings, out / "compare.png")
            drawn = True
        except Exception as error:  # fonts, a full disk: the figures themselves are written
            warn(f"compare.png cannot be drawn ({type(error).__name__}: {error}); --no-plot leaves it out")
    say(f"wrote compare.md{', compare.csv and compare.png' if drawn else ' and compare.csv'} to {out}")


@leaderboard_app.command(epilog="Example: `nota submit submission.csv --competition NAME -m 'first try' --dry-run`")
def submit(
    csv: Annotated[Path, typer.Argument(help="The submission CSV.")],
    competition: Annotated[str, typer.Option(help="The last part of the competition's address on Kaggle.")],
    message: Annotated[str, typer.Option("--message", "-m", help="What the submission is called in the list of them.")],
    annotation: AnnotationOption = None,
    task: TaskOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Validate and say what would be sent; send nothing.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for the score.")] = 600.0,
    poll_seconds: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks at it.")] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Validate a CSV, send it to its Kaggle competition and wait for the score.

    An invalid file is not sent. Credentials are read by the kaggle client alone: `kaggle auth login`, KAGGLE_API_TOKEN,
    or the files in `~/.kaggle`.
    """
    from nota_cli import submit as tool
    from nota_cli.submission import examine

    report = examine(csv, [] if annotation is None else [annotation], pick_task(task))
    parcel = tool.pack(csv, report.rows, competition, message)
    problems = [problem for problem in report.log.sorted() if problem.severity == "error"]
    if problems:
        if as_json:
            found = [problem.as_dict() for problem in problems]
            print_json({"status": "invalid", "file": str(csv), "problems": found})
        else:
            show_report(report, strict=False)
        fail(f"{csv} is not valid, so nothing was sent; nota validate-submission {csv} says more")
        raise typer.Exit(1)
    if report.log.of("warning"):
        warn(f"things that look wrong: {report.log.of('warning')}; nota validate-submission {csv} shows them")
    if dry_run:
        _show({"status": "not sent", **parcel.summary()}, as_json, "Would be sent")
        return
    with progress() as bar:
        shown = bar.add_task(competition, total=None, detail="connecting")
        outcome = tool.send(
            parcel,
            timeout,
            poll_seconds,
            lambda state, looks: bar.update(shown, completed=looks, detail=state),
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
