"""`nota quantize`: a trained decoder to 4-bit GPTQ."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nota_cli.cli.options import RecipeOption, SetOption, pick_recipe
from nota_cli.console import table
from nota_cli.errors import RecipeError

if TYPE_CHECKING:
    from nota_cli.recipe.schema import Recipe

app = typer.Typer()


@app.command(epilog="Example: `nota quantize checkpoints/tiny-stage1 --recipe tiny-stage1 --out checkpoints/tiny-gptq`")
def quantize(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder with a full-precision decoder.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write, its decoder in 4-bit GPTQ.")],
    recipe: RecipeOption = None,
    bits: Annotated[int, typer.Option(help="Number of bits per weight.")] = 4,
    group_size: Annotated[int, typer.Option(help="Number of weights that share a scale.")] = 32,
    clips: Annotated[
        int, typer.Option(min=1, help="Number of calibration clips, drawn from the recipe's training data.")
    ] = 256,
    settings: SetOption = None,
) -> None:
    """Turn a trained decoder into 4-bit GPTQ, calibrated on the audio embeddings and prompts that it really sees."""
    from nota_cli.recipe.load import salmonn_recipe

    loaded = salmonn_recipe(pick_recipe(recipe, checkpoint, settings))  # says that it is loading
    rows = run_quantize(loaded, out, bits, group_size, clips)
    table("Relative output error of the quantized layers", ["layer", "plain rounding", "GPTQ"], rows)


def run_quantize(recipe: "Recipe", out: Path, bits: int, group_size: int, clips: int) -> list[list[str]]:
    """The recipe's full-precision checkpoint to one with a GPTQ decoder; returns the table of layers."""
    import torch

    from nota_cli.cli.guards import check_checkpoint
    from nota_cli.compression.gptq import quantize_to_folder
    from nota_cli.data.batches import TrainingBatches
    from nota_cli.data.row_batches import loader
    from nota_cli.files import check_writable
    from nota_cli.models.build import build
    from nota_cli.models.checkpoint import save_checkpoint
    from nota_cli.recipe.training import Augment

    if not recipe.data.train:
        raise RecipeError("calibration needs audio: name a recipe with training data by --recipe")
    check_checkpoint(out, recipe)
    check_writable(out / "recipe.yaml")
    model = build(recipe, purpose="convert")
    spec = recipe.train
    batches = TrainingBatches(recipe.data.train, model.preprocessor(), Augment(), 16, spec.seed + 1)
    calibration = []
    with torch.no_grad():
        for batch in loader(batches, range(-(-clips // 16)), spec.workers):
            embeds, mask = model.answer_embeds(batch.features, batch.queries, batch.texts)
            calibration.append({"inputs_embeds": embeds, "attention_mask": mask})
    report = quantize_to_folder(
        model.decoder.base, model.decoder.tokenizer, calibration, out / "decoder", bits=bits, group_size=group_size
    )
    decoder = recipe.decoder.model_copy(
        update={
            "path": str(out / "decoder"),
            "config": None,
            "tokenizer": None,
            "train": False,
            "quantization": "gptq",
        }
    )
    model.recipe = model.recipe.model_copy(update={"decoder": decoder})  # the adapter's own rank and alpha in it
    save_checkpoint(model, out)
    return [[layer.name, f"{layer.rounding_error:.4f}", f"{layer.error:.4f}"] for layer in report.layers]
