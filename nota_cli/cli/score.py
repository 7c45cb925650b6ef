"""`nota score`: a CSV against its references."""

from pathlib import Path
from typing import Annotated

import typer

from nota_cli.cli.options import GivenTaskOption, JsonOption, pick_task
from nota_cli.console import print_json, say, table
from nota_cli.errors import UsageError

app = typer.Typer()


@app.command(epilog="Example: `nota score submission.csv --annotation test.json --task aac --details clips.csv`")
def score(
    csv: Annotated[Path, typer.Argument(help="The submission CSV.")],
    annotation: Annotated[Path, typer.Option(help="Annotation JSON with the references.")],
    task: GivenTaskOption,
    profile: Annotated[
        str,
        typer.Option(
            metavar="<organisers|standard|open-asr|dcase|all>",
            help="organisers: the competition's figures. standard: those of papers (aac needs the extra `spider`). "
            "open-asr (asr): the Open ASR Leaderboard's WER. dcase (aac): SPIDEr-FL, FENSE, vocabulary, as far as "
            "installed. all: one table of all of the task's profiles.",
        ),
    ] = "organisers",
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Number of bootstrap samples for the 95% confidence intervals (0: no intervals).")
    ] = 1000,
    details: Annotated[Path | None, typer.Option(help="Write each clip's edits, texts and values to this CSV.")] = None,
    worst: Annotated[
        int | None,
        typer.Option(min=0, help="Number of worst clips and of substitutions to print (default 5; 0 with --json)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a CSV exactly as the organisers do, or as papers and leaderboards do."""
    from nota_cli.cli.guards import check_score
    from nota_cli.files import check_writable
    from nota_cli.score import details as tool
    from nota_cli.score.profiles import ALL
    from nota_cli.score.report import ScoreOptions, score_all, score_clips

    check_score(details, csv, annotation)
    if details is not None:
        check_writable(details)
    if profile == ALL:
        if details is not None:
            raise UsageError("--details lists the clips of one profile; name it with --profile instead of all")
        whole, scored = score_all(csv, annotation, pick_task(task) or task, ScoreOptions(samples=bootstrap))
        profiles, rows = tool.side_by_side(whole)
        if as_json:
            print_json(whole)
        else:
            table(f"Same texts, {len(profiles)} profiles: {csv.name}", ["", *profiles], rows)
            for remark in tool.remarks(whole):
                say(remark)
        tool.show(scored, worst or 0)
        return
    scored = score_clips(csv, annotation, pick_task(task) or task, ScoreOptions(profile=profile, samples=bootstrap))
    if details is not None:
        tool.write_details(details, scored.clips)
    if as_json:
        print_json(scored.report)
    else:
        table(f"Score of {csv.name}", ["", ""], tool.figures(scored.report))
    tool.show(scored, (0 if as_json else 5) if worst is None else worst)
