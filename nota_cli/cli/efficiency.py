"""`nota efficiency`: memory, time to first token, time per output token."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from nota_cli.cli.options import (
    CheckpointOption,
    DeviceOption,
    JsonOption,
    LoadFormatOption,
    RecipeOption,
    RuntimeOption,
    SetOption,
    check_runtime,
    pick_recipe,
)
from nota_cli.console import print_json

app = typer.Typer()


@app.command(epilog="Example: `nota efficiency --recipe salmonn-3b --load-format dummy --out salmonn-3b.json`")
def efficiency(
    recipe: RecipeOption = None,
    checkpoint: CheckpointOption = None,
    protocol: Annotated[
        Literal["synced", "organisers"],
        typer.Option(
            help="synced: wait for the device before and after each timing. organisers: as the competition measured."
        ),
    ] = "synced",
    audio_seconds: Annotated[
        float, typer.Option(min=1.0, max=30.0, help="Length of the random clip in seconds.")
    ] = 10.0,
    tokens: Annotated[int, typer.Option(min=2, help="Number of decode steps per round.")] = 32,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="Number of measured rounds (default: 20; 100 with the organisers' protocol)."),
    ] = None,
    warm_up: Annotated[
        int | None,
        typer.Option(min=0, help="Number of warm-up rounds (default: 3; 10 with the organisers' protocol)."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, help="Stop measuring after so many seconds, though not before 3 rounds.")
    ] = 20.0,
    settings: SetOption = None,
    device: DeviceOption = "auto",
    runtime: RuntimeOption = "auto",
    load_format: LoadFormatOption = "auto",
    out: Annotated[Path | None, typer.Option(help="Write the measurement to this JSON file.")] = None,
    comparison: Annotated[
        list[Path] | None, typer.Option("--compare", help="Measure nothing; show files that --out wrote side by side.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure memory, time to first token and time per output token, beside what the hardware allows.

    `--compare A.json --compare B.json` shows measurements that `--out` wrote side by side.
    """
    from nota_cli.cli.guards import check_efficiency
    from nota_cli.console import progress, warn
    from nota_cli.cores import busy_cores
    from nota_cli.files import check_writable, write_text

    chosen = None if comparison else pick_recipe(recipe, checkpoint, settings)  # says that it is loading
    if chosen is not None:
        check_runtime(chosen, runtime)
    from nota_cli.imports import heavy_imports

    with heavy_imports():
        from nota_cli.efficiency import measure as tool
        from nota_cli.models.device import device_for

    if chosen is None:
        compared = tool.compare(comparison or [])
        print_json(compared) if as_json else tool.show_comparison(compared)
        return
    options = tool.Settings(protocol, audio_seconds, tokens, rounds, warm_up, seconds)
    target = device_for(chosen, device)
    check_efficiency(out, chosen)
    if out is not None:
        check_writable(out)
    if busy := busy_cores():
        warn(busy)
    with progress() as bar:
        task = bar.add_task("rounds", total=None, detail=chosen.name)
        report = tool.measure(
            chosen,
            target,
            load_format=load_format,
            settings=options,
            on_round=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if out is not None:
        write_text(out, json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    print_json(report) if as_json else tool.show(report)
