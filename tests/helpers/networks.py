"""Networks of SALMONN's family from checkpoint folders, as they were saved."""

from pathlib import Path

from nota_cli.models.build import build
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.recipe.load import load_recipe


def load_network(folder: str | Path, device: str = "cpu") -> Salmonn:
    """The network of a checkpoint folder, nothing merged or packed away."""
    recipe = load_recipe(str(folder))
    return build(recipe.model_copy(update={"checkpoint": str(folder)}), device)
