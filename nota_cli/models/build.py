"""The one way from a recipe to a model, for training, inference, measuring and converting alike."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from nota_cli.hub import stored_bytes, weights_of
from nota_cli.imports import heavy_imports
from nota_cli.models.families.base import AudioModel, Builder
from nota_cli.models.memory import memory_explained
from nota_cli.models.parts import Part
from nota_cli.models.purpose import Purpose
from nota_cli.recipe.families import family_of, imported
from nota_cli.recipe.schema import BaseRecipe, Recipe
from nota_cli.recipe.section import LoadFormat

if TYPE_CHECKING:
    from nota_cli.models.families.salmonn import Salmonn


@overload
def build(
    recipe: Recipe,
    device: str = "cpu",
    purpose: Purpose = "inspect",
    *,
    load_format: LoadFormat = "auto",
    allow_missing: bool = False,
) -> "Salmonn": ...


@overload
def build(
    recipe: BaseRecipe,
    device: str = "cpu",
    purpose: Purpose = "inspect",
    *,
    load_format: LoadFormat = "auto",
    allow_missing: bool = False,
) -> AudioModel: ...


def build(
    recipe: BaseRecipe,
    device: str = "cpu",
    purpose: Purpose = "inspect",
    *,
    load_format: LoadFormat = "auto",
    allow_missing: bool = False,
) -> Any:
    """Build a model of any family.

    Args:
        recipe: the system; its `family` names the builder.
        device: where to put it. "meta", with dummy weights, builds the shapes and allocates nothing.
        purpose: what it is for (`nota_cli.models.purpose`).
        load_format: "dummy" gives every part random weights at its true size, quantized as the recipe says; nothing
            is downloaded and no checkpoint read.
        allow_missing: go on though the checkpoint lacks weights or has more than the model takes.

    Raises:
        CheckpointError: weights are missing or do not fit.
        RecipeError: the recipe asks for what cannot be made, such as training a quantized encoder.
        NotaError: memory does not do; the message has what each part needs, and what there is.
    """
    with heavy_imports():
        builder: Builder = imported(family_of(recipe.family).builder)

    def parts() -> Sequence[Part]:
        return builder(recipe, "meta", "convert", load_format="dummy", allow_missing=False).parts()

    stored = None if load_format == "dummy" else stored_bytes(recipe)
    with weights_of(recipe), memory_explained(parts, device, recipe.name, stored):
        return builder(recipe, device, purpose, load_format=load_format, allow_missing=allow_missing)
