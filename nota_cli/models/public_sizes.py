"""The size of a public model as its recipe states it; nothing heavy is imported."""

from nota_cli.models.parts import Part
from nota_cli.recipe.public import PublicRecipe

BITS = {"float32": 32, "bfloat16": 16, "float16": 16}
STORED_BITS = {"int8": 8, "int4": 4, "nf4": 4}


def part_sizes(recipe: PublicRecipe) -> list[Part]:
    """One part, by `model.parameters`; none where the recipe does not state it.

    Scales, and layers that are never quantized, are left out of a quantized one.
    """
    count = recipe.model.parameters
    if count is None:
        return []
    stored = recipe.model.quantization
    bits = STORED_BITS.get(stored, BITS[recipe.model.dtype])
    kind = recipe.model.dtype if stored == "none" else f"{bits}-bit"
    return [Part("model", count, {kind: count * bits // 8})]
