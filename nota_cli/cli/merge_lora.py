"""`nota merge-lora`: adapters added to the decoder's weights."""

from pathlib import Path
from typing import Annotated

import typer

from nota_cli.console import say

app = typer.Typer()


@app.command(epilog="Example: `nota merge-lora checkpoints/mine --out checkpoints/merged`")
def merge_lora(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder with adapters on an unquantized decoder.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    rounding: Annotated[
        bool, typer.Option("--rounding", help="Merge into half-precision weights too, which rounds them.")
    ] = False,
) -> None:
    """Merge the LoRA adapters into the decoder's weights, so that nothing of them is left to compute."""
    say(f"loading {checkpoint} ...")
    from nota_cli.cli.guards import check_new_folder
    from nota_cli.compression.folders import read_recipe
    from nota_cli.compression.merge import merge_checkpoint
    from nota_cli.recipe.inputs import recipe_inputs

    check_new_folder(out, checkpoint, recipe_inputs(read_recipe(checkpoint)))
    report = merge_checkpoint(checkpoint, out, rounding=rounding)
    say(f"{report.folder}: {report.layers} layers merged")
