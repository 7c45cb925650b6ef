"""`nota quantize`: a trained decoder to GPTQ."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from nota_cli.cli.options import RecipeOption, SetOption, pick_recipe
from nota_cli.console import table

app = typer.Typer()


@app.command(epilog="Example: `nota quantize checkpoints/tiny-stage1 --recipe tiny-stage1 --out checkpoints/tiny-gptq`")
def quantize(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder with a full-precision decoder.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write, its decoder quantized by GPTQ.")],
    recipe: RecipeOption = None,
    bits: Annotated[int, typer.Option(metavar="<2|3|4|8>", help="Number of bits per weight.")] = 4,
    group_size: Annotated[int, typer.Option(help="Number of weights that share a scale; -1: a whole column.")] = 32,
    clips: Annotated[
        int, typer.Option(min=1, help="Number of calibration clips, from the recipe's data.calibration or data.train.")
    ] = 256,
    calibration: Annotated[
        Literal["audio", "text"],
        typer.Option(help="Calibrate on what the decoder sees of the clips, or on their texts alone."),
    ] = "audio",
    settings: SetOption = None,
) -> None:
    """Quantize a trained decoder by GPTQ, calibrated on the audio embeddings and prompts that it really sees.

    LoRA adapters are merged into the weights in float32 first.
    """
    from nota_cli.cli.guards import check_checkpoint
    from nota_cli.files import check_writable
    from nota_cli.imports import heavy_imports
    from nota_cli.recipe.load import salmonn_recipe

    loaded = salmonn_recipe(pick_recipe(recipe, checkpoint, settings))  # says that it is loading
    check_checkpoint(out, loaded)
    check_writable(out / "recipe.yaml")
    with heavy_imports():
        from nota_cli.compression.gptq_checkpoint import quantize_checkpoint
    report = quantize_checkpoint(loaded, out, bits=bits, group_size=group_size, clips=clips, calibration=calibration)
    rows = [[layer.name, f"{layer.rounding_error:.4f}", f"{layer.error:.4f}"] for layer in report.layers]
    table("Relative output error of the quantized layers", ["layer", "plain rounding", "GPTQ"], rows)
