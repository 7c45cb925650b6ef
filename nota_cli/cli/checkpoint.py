"""`nota checkpoint convert`: a `.pth` to a checkpoint folder."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nota_cli.cli.completion import complete_recipe
from nota_cli.cli.options import SetOption, pick_recipe
from nota_cli.console import say

if TYPE_CHECKING:
    from nota_cli.models.checkpoint import KeyReport
    from nota_cli.recipe.schema import Recipe


app = typer.Typer(help="Trained weights in other formats.", no_args_is_help=True)


@app.command("convert", epilog="Example: `nota checkpoint convert theirs.pth -r salmonn-3b --out mine`")
def checkpoint_convert(
    file: Annotated[Path, typer.Argument(help="The .pth file to convert.")],
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            "-r",
            help="The recipe of the system that the weights belong to.",
            autocompletion=complete_recipe,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    settings: SetOption = None,
) -> None:
    """Turn a `.pth` into a checkpoint folder; only the configs of the published weights are needed."""
    from nota_cli.recipe.load import salmonn_recipe

    loaded = salmonn_recipe(pick_recipe(recipe, file, settings))  # says that it is loading
    report = _convert(file, loaded, out)
    say(f"{out}: {report}")


def _convert(file: Path, recipe: "Recipe", out: Path) -> "KeyReport":
    """A `.pth` to a checkpoint folder, over a model of which nothing else is allocated."""
    from nota_cli.cli.guards import check_checkpoint
    from nota_cli.errors import CheckpointError
    from nota_cli.files import check_writable
    from nota_cli.models.build import build
    from nota_cli.models.checkpoint import load_checkpoint, makes_decoder, save_checkpoint, saved_names
    from nota_cli.outputs import Input

    check_checkpoint(out, recipe, [Input("the checkpoint", file)])
    check_writable(out / "recipe.yaml")
    model = build(recipe.model_copy(update={"checkpoint": None}), "meta", "convert", load_format="dummy")
    report = load_checkpoint(model, file)
    if makes_decoder(recipe) and any(tensor.is_meta for tensor in model.decoder.state_dict().values()):
        raise CheckpointError(
            f"{file} does not hold the decoder that recipe {recipe.name!r} trains itself: name a published one by "
            "decoder.path, and leave decoder.train and decoder.config out"
        )
    dropped = Counter(name.split(".")[0] for name in set(report.matched) - saved_names(model))
    if dropped:
        raise CheckpointError(
            f"{file} holds weights that the recipe takes from a path: {', '.join(sorted(dropped))}. Keep them by "
            + " ".join(f"--set {part}.train=true" for part in sorted(dropped))
        )
    save_checkpoint(model, out)
    return report
