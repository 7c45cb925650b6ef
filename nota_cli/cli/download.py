"""`nota download`: every part of a recipe from the hub, verified."""

import typer

from nota_cli.cli.options import RecipeArgument, SetOption
from nota_cli.console import table

app = typer.Typer()


@app.command(epilog="Example: `nota download gemma2-2b-gptq`")
def download(
    recipe: RecipeArgument,
    settings: SetOption = None,
) -> None:
    """Get the weights of a recipe: download every part from the hub, verify it, and print where it is."""
    from nota_cli.hub import download as fetch
    from nota_cli.recipe.load import load_any_recipe

    parts = fetch(load_any_recipe(recipe, settings))
    rows = [[part.part, part.source, f"{part.bytes / 1e6:,.1f}", str(part.folder)] for part in parts]
    table(f"Parts of {recipe}", ["part", "from", "MB", "lies in"], rows)
