"""Commands about systems and their weights: recipes, downloads, checkpoints in other formats."""

from pathlib import Path
from typing import Annotated

import typer

from nota_cli.cli_completion import complete_recipe
from nota_cli.cli_options import JsonOption, RecipeArgument, SetOption, pick_recipe
from nota_cli.console import print_json, say, table

systems_app = typer.Typer()
recipes_app = typer.Typer(help="The recipes: what there is and what each is made of.", no_args_is_help=True)
checkpoint_app = typer.Typer(help="Trained weights in other formats.", no_args_is_help=True)


@systems_app.command(epilog="Example: `nota download gemma2-2b-gptq`")
def download(
    recipe: RecipeArgument,
    settings: SetOption = None,
) -> None:
    """Fetch every part of a recipe from the hub, verify it, and say where it lies."""
    from nota_cli.hub import download as fetch
    from nota_cli.recipe.load import load_recipe

    parts = fetch(load_recipe(recipe, settings))
    rows = [[part.part, part.source, f"{part.bytes / 1e6:,.1f}", str(part.folder)] for part in parts]
    table(f"Parts of {recipe}", ["part", "from", "MB", "lies in"], rows)


@recipes_app.command("list", epilog="Example: `nota recipes list`")
def recipes_list(as_json: JsonOption = False) -> None:
    """Every recipe that ships with nota, with its parts and its size."""
    from nota_cli.commands_recipes import list_recipes

    rows = list_recipes()
    if as_json:
        print_json({"recipes": rows})
    else:
        table("Recipes", list(rows[0]), [[str(value) for value in row.values()] for row in rows], whole=True)


@recipes_app.command("show", epilog="Example: `nota recipes show gemma2-2b-gptq`")
def recipes_show(
    recipe: RecipeArgument,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """The parts of a recipe: parameters, and bytes by type of number. Nothing is downloaded."""
    from nota_cli.commands import show_recipe
    from nota_cli.recipe.load import load_recipe

    loaded = load_recipe(recipe, settings)
    parts = show_recipe(loaded)
    if as_json:
        print_json({"recipe": loaded.name, "description": loaded.description, "parts": parts})
        return
    rows = []
    for part in parts:
        large = {name: size for name, size in part["by_type"].items() if size > part["bytes"] / 1000}
        kinds = ", ".join(f"{name} {size / 1e6:,.1f}" for name, size in large.items())
        rows.append([part["part"], part["from"], f"{part['parameters']:,}", f"{part['bytes'] / 1e6:,.1f}", kinds])
    say(loaded.description)
    table(loaded.name, ["part", "from", "parameters", "MB", "MB by type"], rows)


@recipes_app.command("import", epilog="Example: `nota recipes import train_config.yaml --out mine.yaml`")
def recipes_import(
    config: Annotated[Path, typer.Argument(help="A YAML config of SALMONN, the organisers or a team.")],
    out: Annotated[Path | None, typer.Option(help="The recipe file to write; printed if not given.")] = None,
) -> None:
    """Turn another system's config into a recipe; keys that are dead or unknown are reported."""
    from nota_cli.commands import run_import

    text = run_import(config, out)
    if out is None:
        typer.echo(text, nl=False)


@checkpoint_app.command("convert", epilog="Example: `nota checkpoint convert theirs.pth -r salmonn-3b --out mine`")
def checkpoint_convert(
    file: Annotated[Path, typer.Argument(help="A team's .pth.")],
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", "-r", help="The recipe of the system that it belongs to.", autocompletion=complete_recipe
        ),
    ],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    settings: SetOption = None,
) -> None:
    """Turn a `.pth` into a checkpoint folder; of the published weights the configs alone are needed."""
    loaded = pick_recipe(recipe, file, settings)  # says that it is loading
    from nota_cli.commands import run_convert

    report = run_convert(file, loaded, out)
    say(f"{out}: {report}")
