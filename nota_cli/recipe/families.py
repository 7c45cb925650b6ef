"""The model families that recipes may name: a new one is a line here, its recipe class and its builder."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from nota_cli.errors import RecipeError
from nota_cli.recipe.schema import BaseRecipe

DEFAULT_FAMILY: str = BaseRecipe.model_fields["family"].default


@dataclass(frozen=True)
class Family:
    """Where a family's code lies; it is imported only when a recipe of the family is read or built.

    Attributes:
        recipe: module and class of its recipe, as `package.module:Class`; reading recipes must not import torch.
        builder: its function that builds a model (`nota_cli.models.families.base.Builder`).
        sizes: its function from a recipe to the sizes of the parts (`nota_cli.models.families.base.Sizes`), by
            arithmetic; torch is not imported for it either.
        runs_on_torch: whether it needs torch; what does not runs on the CPU.
        batches_alike: whether it is known that padding changes no text; else `nota infer` looks at a few clips first.
    """

    recipe: str
    builder: str
    sizes: str
    runs_on_torch: bool = True
    batches_alike: bool = True

    def recipe_class(self) -> type[BaseRecipe]:
        """The class that reads the family's recipes."""
        schema: type[BaseRecipe] = imported(self.recipe)
        return schema


FAMILIES: dict[str, Family] = {
    "salmonn": Family(
        "nota_cli.recipe.schema:Recipe",
        "nota_cli.models.families.salmonn_build:build",
        "nota_cli.models.sizes:part_sizes",
    ),
    "transformers": Family(
        "nota_cli.recipe.public:PublicRecipe",
        "nota_cli.models.families.public:build",
        "nota_cli.models.public_sizes:part_sizes",
        batches_alike=False,
    ),
    # Every folder of `nota export`: encoders and connector are always ONNX, the decoder may be GGUF.
    "onnx": Family(
        "nota_cli.recipe.exported:ExportRecipe",
        "nota_cli.models.families.exported:build",
        "nota_cli.models.families.exported:sizes",
        runs_on_torch=False,
    ),
}


def imported(name: str) -> Any:
    """What `package.module:name` stands for."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def family_of(name: object) -> Family:
    """A family by the name that a recipe gives.

    Raises:
        RecipeError: there is none of that name.
    """
    if not isinstance(name, str) or name not in FAMILIES:
        raise RecipeError(f"family: there is no model family {name!r}; there are: {', '.join(FAMILIES)}")
    return FAMILIES[name]
