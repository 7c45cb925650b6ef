"""`nota train`: what a recipe trains, into a checkpoint folder."""

from pathlib import Path
from typing import Annotated

import typer

from nota_cli.cli.options import RecipeArgument, SetOption
from nota_cli.console import say, table

app = typer.Typer()


@app.command(
    epilog="Example: `nota train tiny-samples --out checkpoints/mine`, a minute's run on the sample recordings. "
    "`nota train tiny` needs the corpora that the shipped model was trained on."
)
def train(
    recipe: RecipeArgument,
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder to write (default: checkpoints/RECIPE).")] = None,
    init: Annotated[Path | None, typer.Option(help="Checkpoint folder whose weights training starts from.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an interrupted run: the same command with this flag.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Discard an unfinished run and start again.")] = False,
    settings: SetOption = None,
) -> None:
    """Train a recipe's model; resume an interrupted run with `--resume`."""
    from nota_cli.cli.guards import check_checkpoint
    from nota_cli.recipe.load import load_recipe
    from nota_cli.recipe.sources import with_data_there

    loaded = load_recipe(recipe, settings)
    if init is not None:
        loaded = loaded.model_copy(update={"train": loaded.train.model_copy(update={"init": str(init)})})
    loaded = with_data_there(loaded, recipe)
    folder = out or Path("checkpoints") / loaded.name
    check_checkpoint(folder, loaded)
    say(f"loading recipe {loaded.name} ...")
    from nota_cli.imports import heavy_imports

    with heavy_imports():
        from nota_cli.training.loop import train as train_recipe

    done = train_recipe(loaded, folder, resume=resume, restart=restart)
    rows = [["checkpoint", str(done.folder)], ["steps", str(done.steps)]]
    rows += [
        [name, f"{done.summary[name]:g}"] for name in ("clips_per_second", "audio_seconds_per_second", "data_wait")
    ]
    table("Training", ["", ""], [*rows, *([name, f"{value:.4f}"] for name, value in done.metrics.items())])
