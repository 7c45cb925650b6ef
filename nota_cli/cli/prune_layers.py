"""`nota prune-layers`: a checkpoint with fewer layers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nota_cli.cli.options import RecipeOption, pick_recipe
from nota_cli.console import say, table
from nota_cli.errors import UsageError

if TYPE_CHECKING:
    from nota_cli.recipe.training import Data

app = typer.Typer()


@app.command(epilog="Example: `nota prune-layers checkpoints/tiny --speech-encoder 3 --out checkpoints/pruned`")
def prune_layers(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    speech_encoder: Annotated[int | None, typer.Option(min=1, help="Number of speech encoder layers to keep.")] = None,
    audio_encoder: Annotated[int | None, typer.Option(min=1, help="Number of audio encoder layers to keep.")] = None,
    decoder: Annotated[int | None, typer.Option(min=1, help="Number of decoder layers to keep.")] = None,
    strategy: Annotated[
        Literal["even", "last", "similarity"],
        typer.Option(help="Layers to drop: evenly spread ones, the last ones, or those that change their input least."),
    ] = "even",
    recipe: RecipeOption = None,
    clips: Annotated[int, typer.Option(min=1, help="Number of clips that `similarity` is measured on.")] = 16,
) -> None:
    """Drop layers of the encoders or the decoder; train the result for a short while to recover its quality.

    `--strategy similarity` runs clips of `--recipe`'s data and drops the layers whose output is most like their input.
    """
    say(f"loading {checkpoint} ...")
    numbers = {"speech_encoder": speech_encoder, "audio_encoder": audio_encoder, "decoder": decoder}
    data = None if recipe is None else pick_recipe(recipe, None, None).data
    rows = run_prune_layers(checkpoint, out, numbers, strategy, data, clips)
    table(f"Layers in {out}", ["part", "kept", "which", "MB before", "MB after"], rows)


def run_prune_layers(
    checkpoint: Path, out: Path, numbers: dict[str, int | None], strategy: str, data: "Data | None", clips: int
) -> list[list[str]]:
    """A checkpoint folder to one with fewer layers; returns the table of the parts."""
    from nota_cli.cli.guards import check_new_folder
    from nota_cli.compression.layers import choose, layer_counts, prune_layers
    from nota_cli.recipe.inputs import recipe_inputs
    from nota_cli.recipe.load import load_recipe

    wanted = {part: number for part, number in numbers.items() if number is not None}
    if not wanted:
        raise UsageError("say how many layers stay, for example --speech-encoder 3")
    check_new_folder(out, checkpoint, recipe_inputs(load_recipe(str(checkpoint))))
    scores: dict[str, list[float]] = {}
    if strategy == "similarity":
        scores = _influence(checkpoint, data, clips)
    totals = {part: len(values) for part, values in scores.items()} or layer_counts(checkpoint)
    absent = [part for part in wanted if part not in totals]
    if absent:
        raise UsageError(f"no part {', '.join(absent)} in {checkpoint}; there are: {', '.join(totals)}")
    keep = {part: choose(totals[part], number, strategy, scores.get(part)) for part, number in wanted.items()}
    return [
        [
            part.part,
            f"{len(part.kept)} of {part.total}",
            " ".join(map(str, part.kept)),
            f"{part.bytes_before / 1e6:,.2f}",
            f"{part.bytes_after / 1e6:,.2f}",
        ]
        for part in prune_layers(checkpoint, out, keep).parts
    ]


def _influence(checkpoint: Path, data: "Data | None", clips: int) -> dict[str, list[float]]:
    """How much each layer changes what goes through it, over clips drawn evenly from all of a recipe's sources."""
    import torch

    from nota_cli.compression.layers import block_influence
    from nota_cli.data.annotation import Row, read_annotation
    from nota_cli.data.row_batches import RowBatches, in_order
    from nota_cli.models.build import build
    from nota_cli.recipe.load import load_recipe

    sources = [] if data is None else [*data.train, *data.test.values()]
    if not sources:
        raise UsageError("--strategy similarity needs clips: name a recipe with training or test data by --recipe")
    model = build(load_recipe(str(checkpoint)).model_copy(update={"checkpoint": str(checkpoint)}))
    share = -(-clips // len(sources))
    influences: list[dict[str, list[float]]] = []
    for source in sources:
        rows: Sequence[Row] = read_annotation(source.annotation)[:share]
        batch = RowBatches(rows, in_order(len(rows), share), source.audio_root, model.preprocessor())[0]
        influences.append(block_influence(model, batch.features, batch.queries))
    return {part: torch.tensor([one[part] for one in influences]).mean(0).tolist() for part in influences[0]}
