"""`nota ladder`: one system at several numbers of bits and in several runtimes, quality and cost side by side."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nota_cli.cli.completion import complete_recipe, complete_task
from nota_cli.cli.options import CheckpointOption, JsonOption, SetOption, pick_recipe, pick_task
from nota_cli.console import fail, print_json, say, table, warn

if TYPE_CHECKING:
    from nota_cli.ladder.climb import Plan

app = typer.Typer()

ALL_RUNTIMES = "torch,onnx,gguf"


@app.command(
    epilog="Example: `nota ladder tiny --annotation test-asr.json --annotation test-aac.json --runtimes torch,onnx "
    "--out ladders/tiny`"
)
def ladder(
    source: Annotated[
        str,
        typer.Argument(
            help="Recipe or checkpoint folder: a name from `nota recipes list`, a YAML file, a folder.",
            autocompletion=complete_recipe,
        ),
    ],
    annotation: Annotated[list[Path], typer.Option(help="Annotation JSON with references. Repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder for ladder.md, ladder.csv, ladder.png and the artifacts.")],
    checkpoint: CheckpointOption = None,
    audio_root: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder that the paths in --annotation are relative to (default: the annotation's folder): one for "
            "all, or one for each."
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<asr|aac|qa>",
            help="Rows to run (default: all that the annotations have). Repeatable.",
            autocompletion=complete_task,
        ),
    ] = None,
    encoder_bits: Annotated[str, typer.Option(help="Numbers of bits per weight of the encoders.")] = "32,8",
    decoder_bits: Annotated[str, typer.Option(help="Numbers of bits per weight of the decoder.")] = "32,8,4",
    runtimes: Annotated[
        str | None,
        typer.Option(
            help="Runtimes. If a rung of one that is named here fails, the exit status is 1. torch is the reference "
            "and always there; in gguf, 32 bits stand for f16.",
            show_default=ALL_RUNTIMES,
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Run only the first N rows of each task.")] = None,
    audio_seconds: Annotated[
        float, typer.Option(min=1.0, max=30.0, help="Length in seconds of the random clip that times are taken with.")
    ] = 10.0,
    seconds: Annotated[
        float, typer.Option(min=0, help="Stop measuring a rung after so many seconds, though not before 3 rounds.")
    ] = 20.0,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export a system at several numbers of bits, and run, score and measure each artifact on the CPU.

    The source as it stands in torch is the reference: every other row says how far it is from it, with the interval of
    a paired bootstrap. Artifacts, texts and measurements stay in the folder; the same command goes on where one was
    stopped, and does again only what has changed.
    """
    from nota_cli.cli.guards import check_ladder
    from nota_cli.files import write_text
    from nota_cli.ladder import table as tool
    from nota_cli.ladder.climb import Plan, climb
    from nota_cli.ladder.rungs import DECODER_BITS, ENCODER_BITS, parse_bits, parse_runtimes, rungs_of
    from nota_cli.ladder.sets import check_prompts, read_sets
    from nota_cli.recipe.load import salmonn_recipe

    named = parse_runtimes(ALL_RUNTIMES if runtimes is None else runtimes)
    encoder = parse_bits(encoder_bits, ENCODER_BITS, "--encoder-bits")
    decoder = parse_bits(decoder_bits, DECODER_BITS, "--decoder-bits")
    tasks = [pick_task(each) or each for each in task or []]
    recipe = salmonn_recipe(pick_recipe(source, checkpoint, settings))  # says that it is loading
    sets = read_sets(annotation, audio_root or [], tasks, limit)
    check_prompts(sets, recipe)
    check_ladder(out, recipe, sets)
    options = [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
    options += [word for setting in settings or [] for word in ("--set", setting)]
    plan = Plan(recipe, source, options, rungs_of(named, encoder, decoder), sets, out, audio_seconds, seconds)
    results = climb(plan)
    rows, machines = tool.records(results), tool.machines_of(results)
    command = shlex.join(["nota", *sys.argv[1:]])
    write_text(out / "ladder.md", tool.markdown(rows, plan, command, machines))
    write_text(out / "ladder.csv", tool.csv_text(rows))
    _draw(rows, plan)
    if as_json:
        print_json({"recipe": recipe.name, "out": str(out), "machines": machines, "rungs": rows})
    else:
        table(f"Quality of {recipe.name}", *tool.cells(rows, plan, content="quality"), whole=True)
        table("Cost", *tool.cells(rows, plan, content="cost"), whole=True)
    if len(machines) > 1:
        warn(f"times and memory do not compare: they were measured on {' and on '.join(machines)}")
    failed = [each.rung for each in results if each.failure is not None]
    bad = [rung.name for rung in failed if runtimes is not None or rung.runtime == "torch" or len(failed) == len(rows)]
    if bad:
        fail(f"{len(bad)} of {len(rows)} rungs failed ({', '.join(bad)}); {out / 'ladder.md'} says why")
        raise typer.Exit(1)


def _draw(rows: list[dict[str, Any]], plan: "Plan") -> None:
    from nota_cli.ladder.plot import draw
    from nota_cli.leaderboard.axes import is_drawable

    written = "ladder.md, ladder.csv and ladder.png"
    if is_drawable():
        draw(rows, plan, plan.out / "ladder.png")
    else:
        written = 'ladder.md and ladder.csv; ladder.png needs matplotlib (pip install "nota-cli[plot]")'
    say(f"{plan.out}: wrote {written}")
