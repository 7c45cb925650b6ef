"""`nota efficiency`: memory, time to first token, time per output token."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nota_cli.cli.options import (
    CheckpointOption,
    DeviceOption,
    JsonOption,
    LoadFormatOption,
    RecipeOption,
    SetOption,
    pick_load_format,
    pick_recipe,
)
from nota_cli.console import print_json
from nota_cli.errors import UsageError

if TYPE_CHECKING:
    pass

app = typer.Typer()


@app.command(epilog="Example: `nota efficiency --recipe salmonn-3b --load-format dummy --out salmonn-3b.json`")
def efficiency(
    recipe: RecipeOption = None,
    checkpoint: CheckpointOption = None,
    protocol: Annotated[str, typer.Option(help="synced, or organisers: the competition's own way.")] = "synced",
    audio_seconds: Annotated[float, typer.Option(min=1.0, max=30.0, help="Length of the random clip.")] = 10.0,
    tokens: Annotated[int, typer.Option(min=2, help="Decode steps measured a round.")] = 32,
    rounds: Annotated[int | None, typer.Option(min=1, help="Counted rounds; 20, or the organisers' 100.")] = None,
    warm_up: Annotated[int | None, typer.Option(min=0, help="Rounds before them; 3, or the organisers' 10.")] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Time for prefills, and for steps; 3 rounds always.")] = 20.0,
    settings: SetOption = None,
    device: DeviceOption = "auto",
    load_format: LoadFormatOption = "auto",
    out: Annotated[Path | None, typer.Option(help="Write the measurement to this JSON file.")] = None,
    comparison: Annotated[
        list[Path] | None, typer.Option("--compare", help="Measure nothing; set such files side by side.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure memory, time to first token and time per output token, beside what the hardware allows.

    `--compare A.json --compare B.json` shows measurements that `--out` wrote side by side.
    """
    from nota_cli.cli.guards import check_efficiency
    from nota_cli.console import progress
    from nota_cli.files import check_writable, write_text

    chosen = None if comparison else pick_recipe(recipe, checkpoint, settings)  # says that it is loading
    from nota_cli.efficiency import measure as tool
    from nota_cli.models.device import pick_device

    if chosen is None:
        compared = tool.compare(comparison or [])
        print_json(compared) if as_json else tool.show_comparison(compared)
        return
    if protocol not in tool.PROTOCOLS:
        raise UsageError(f"--protocol {protocol!r}: there are {' and '.join(tool.PROTOCOLS)}")
    how = tool.Settings(protocol, audio_seconds, tokens, rounds, warm_up, seconds)
    place, weights = pick_device(device), pick_load_format(load_format)
    check_efficiency(out, chosen)
    if out is not None:
        check_writable(out)
    with progress() as bar:
        shown = bar.add_task("rounds", total=None, detail=chosen.name)
        report = tool.measure(
            chosen,
            place,
            load_format=weights,
            settings=how,
            on_round=lambda done, total: bar.update(shown, completed=done, total=total),
        )
    if out is not None:
        write_text(out, json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    print_json(report) if as_json else tool.show(report)
