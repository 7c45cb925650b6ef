"""Commands that make a trained model smaller."""

from pathlib import Path
from typing import Annotated

import typer

from nota_cli.cli_options import RecipeOption, SetOption, pick_recipe
from nota_cli.console import say, table

compress_app = typer.Typer()


@compress_app.command(
    epilog="Example: `nota quantize checkpoints/tiny-stage1 --recipe tiny-stage1 --out checkpoints/tiny-gptq`"
)
def quantize(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder with a full-precision decoder.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write, its decoder in 4-bit GPTQ.")],
    recipe: RecipeOption = None,
    bits: Annotated[int, typer.Option(help="Bits a weight.")] = 4,
    group_size: Annotated[int, typer.Option(help="Weights that share a scale.")] = 32,
    clips: Annotated[int, typer.Option(min=1, help="Calibration clips, drawn from the recipe's training data.")] = 256,
    settings: SetOption = None,
) -> None:
    """Turn a trained decoder into 4-bit GPTQ, calibrated on the audio embeddings and prompts that it really sees."""
    loaded = pick_recipe(recipe, checkpoint, settings)  # says that it is loading
    from nota_cli.commands_compress import run_quantize

    rows = run_quantize(loaded, out, bits, group_size, clips)
    table("Relative output error of the quantised layers", ["layer", "plain rounding", "GPTQ"], rows)


@compress_app.command(
    epilog="Examples: `nota prune-vocabulary checkpoints/mine --annotation train.json --out smaller`, "
    "and with `--size 32000` no more than so many tokens"
)
def prune_vocabulary(
    source: Annotated[str, typer.Argument(help="A checkpoint folder, or a recipe whose decoder is a local folder.")],
    out: Annotated[Path, typer.Option(help="Checkpoint or decoder folder to write.")],
    annotation: Annotated[list[Path] | None, typer.Option(help="Annotations whose texts and questions count.")] = None,
    texts: Annotated[list[Path] | None, typer.Option(help="Text files, every line of which counts.")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="A token to keep in any case.")] = None,
    multiple: Annotated[int, typer.Option(min=1, help="Fill up to a multiple of so many rows.")] = 1,
    size: Annotated[
        int | None, typer.Option(min=1, help="At most so many tokens; those that the texts use most stay.")
    ] = None,
) -> None:
    """Keep the tokens that given texts need, and shrink embedding, output head and tokenizer to them.

    The recipe's prompts count always. Any other text can still be read and written, in more tokens (with a word-level
    tokenizer other words are unknown). What `--size` costs is in the table: how much longer the texts become.
    """
    say(f"loading {source} ...")
    from nota_cli.commands_compress import run_prune_vocabulary

    report = run_prune_vocabulary(source, out, annotation or [], texts or [], keep or [], multiple, size)
    table(f"Vocabulary in {out}", ["", "before", "after"], report)


@compress_app.command(
    epilog="Example: `nota prune-layers checkpoints/tiny --speech-encoder 3 --out checkpoints/pruned`"
)
def prune_layers(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    speech_encoder: Annotated[int | None, typer.Option(min=1, help="Layers to keep.")] = None,
    audio_encoder: Annotated[int | None, typer.Option(min=1, help="Layers to keep.")] = None,
    decoder: Annotated[int | None, typer.Option(min=1, help="Layers to keep.")] = None,
    strategy: Annotated[str, typer.Option(help="even, last, or similarity (those that change least go).")] = "even",
    recipe: RecipeOption = None,
    clips: Annotated[int, typer.Option(min=1, help="Clips that similarity is measured on.")] = 16,
) -> None:
    """Drop layers of encoders or decoder; a short training run from the result heals it.

    `--strategy similarity` runs clips of `--recipe`'s data and drops the layers whose output is most like their input.
    """
    say(f"loading {checkpoint} ...")
    from nota_cli.commands_compress import run_prune_layers

    numbers = {"speech_encoder": speech_encoder, "audio_encoder": audio_encoder, "decoder": decoder}
    data = None if recipe is None else pick_recipe(recipe, None, None).data
    rows = run_prune_layers(checkpoint, out, numbers, strategy, data, clips)
    table(f"Layers in {out}", ["part", "kept", "which", "MB before", "MB after"], rows)


@compress_app.command(epilog="Example: `nota merge-lora checkpoints/mine --out checkpoints/merged`")
def merge_lora(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder with adapters on an unquantised decoder.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    rounding: Annotated[bool, typer.Option("--rounding", help="Merge into half precision too, which rounds.")] = False,
) -> None:
    """Add the adapters to the decoder's weights, so that nothing of them is left to compute."""
    say(f"loading {checkpoint} ...")
    from nota_cli.compress.merge import merge_checkpoint, read_recipe
    from nota_cli.guards import check_new_folder
    from nota_cli.recipe.inputs import recipe_inputs

    check_new_folder(out, checkpoint, recipe_inputs(read_recipe(checkpoint)))
    report = merge_checkpoint(checkpoint, out, rounding=rounding)
    say(f"{report.folder}: {report.layers} layers merged")
