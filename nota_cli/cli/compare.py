"""`nota compare`: runs ranked side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nota_cli.cli.options import JsonOption
from nota_cli.console import out as terminal
from nota_cli.console import print_json, say, table, warn
from nota_cli.errors import UsageError

if TYPE_CHECKING:
    from nota_cli.leaderboard.ranking import RankedRun

app = typer.Typer()


@app.command(epilog="Example: `nota compare runs/mine runs/smaller --out leaderboard`")
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
        str,
        typer.Option(
            metavar="<worst|skip>", help="worst: rank a missing figure last. skip: leave its run out of the ranking."
        ),
    ] = "worst",
    references: Annotated[
        bool, typer.Option(help="Include the figures that the teams of the seed systems reported.")
    ] = True,
    out: Annotated[Path | None, typer.Option(help="Folder for compare.md, compare.csv and compare.png.")] = None,
    plot: Annotated[bool, typer.Option(help="Draw compare.png too, which needs matplotlib.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Rank runs as the competition did: the weighted sum of their ranks, less is better.

    Reports are what `nota score --json` and `nota efficiency --out` write. Those of a folder are one run; others are
    joined by their names: `mine-asr.json`, `mine-aac.json`, `mine-efficiency.json`.
    """
    from nota_cli.cli.guards import check_compare
    from nota_cli.leaderboard import ranking as tool
    from nota_cli.leaderboard.reports import read_runs

    weighed = tool.parse_weights(weights)
    if not runs and not references:
        raise UsageError("nothing to compare: give reports or folders, or leave --no-references out")
    known = [*read_runs(runs or []), *(tool.reference_runs() if references else [])]
    ranked_runs = tool.rank_runs(known, weighed, missing)
    if out is not None:
        check_compare(out, [file for run in known for file in run.files])
        _write(out, ranked_runs, weighed, missing, plot)
    notes, cautions = tool.explain(ranked_runs, weighed, missing), tool.cautions(known)
    if as_json:
        ranked = [tool.record(row) for row in ranked_runs]
        print_json({"weights": weighed, "missing": missing, "runs": ranked, "notes": notes, "cautions": cautions})
        return
    _show_ranks(ranked_runs)
    for line in notes:
        say(line)
    for line in cautions:
        warn(line)


def _show_ranks(ranked_runs: "list[RankedRun]") -> None:
    """One table, or one of ranks and one of figures where the terminal is too narrow for both together."""
    from nota_cli.leaderboard.ranking import cells

    heads, rows = cells(ranked_runs)
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    if sum(widths) + 3 * len(widths) + 1 <= terminal.width:
        table("Weighted ranks, best first", heads, rows)
    else:
        table("Weighted ranks, best first", *cells(ranked_runs, content="ranks"))
        table("Figures", *cells(ranked_runs, content="figures"))


def _write(out: Path, ranked_runs: "list[RankedRun]", weights: dict[str, float], missing: str, plot: bool) -> None:
    from nota_cli.files import write_text
    from nota_cli.leaderboard import ranking as tool

    for name in ("compare.md", "compare.csv", "compare.png"):
        if (out / name).is_dir():
            raise UsageError(f"cannot write {out / name}: it is a folder. Choose another output path.")
    if plot:
        from nota_cli.leaderboard.plot import check_matplotlib, draw

        check_matplotlib()  # so that nothing is written where it is not there
    write_text(out / "compare.md", tool.markdown(ranked_runs, weights, missing))
    write_text(out / "compare.csv", tool.csv_text(ranked_runs))
    drawn = False
    if plot:
        try:
            draw(ranked_runs, out / "compare.png")
            drawn = True
        except Exception as error:  # fonts, a full disk: the figures themselves are written
            warn(f"compare.png cannot be drawn ({type(error).__name__}: {error}); --no-plot leaves it out")
    say(f"wrote compare.md{', compare.csv and compare.png' if drawn else ' and compare.csv'} to {out}")
