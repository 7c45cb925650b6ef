"""What `nota recipes list` shows; apart from the other commands, as it needs neither torch nor a model."""

import os

from nota_cli.console import warn
from nota_cli.errors import UsageError
from nota_cli.model.sizes import part_sizes
from nota_cli.recipe.load import load_recipe, recipe_names
from nota_cli.recipe.schema import Decoder, Encoder, Recipe

NAME_WIDTH = 40  # characters of a weights' name that a table has room for


def list_recipes() -> list[dict[str, object]]:
    """One row a shipped recipe: its parts, all parameters, all bytes in GB (10^9); no model is built."""
    rows: list[dict[str, object]] = []
    for name in recipe_names():
        recipe = load_recipe(name)
        size: dict[str, object] = {"parameters": "?", "GB": "?"}
        try:
            parts = part_sizes(recipe)
            size["parameters"] = f"{sum(part.parameters for part in parts) / 1e6:,.1f} M"
            size["GB"] = round(sum(part.bytes for part in parts) / 1e9, 3)
        except UsageError as error:  # one that lacks a file of the user's own does not hide the others
            warn(f"{name}: {error}")
        rows.append(
            {
                "recipe": name,
                "speech encoder": _short(recipe.speech_encoder),
                "audio encoder": _short(recipe.audio_encoder),
                "decoder": f"{_short(recipe.decoder)} {_weights(recipe)}",
                **size,
            }
        )
    return rows


def source_of(spec: Encoder | Decoder) -> str:
    """Where a part's weights come from, as short as it can be named."""
    if getattr(spec, "kind", "") == "none":
        return "none"
    if spec.path is None:
        return "trained here"
    return min(os.path.relpath(spec.path), spec.path, key=len) if os.path.isabs(spec.path) else spec.path


def _short(spec: Encoder | Decoder) -> str:
    """The last part of where weights come from; the kind of encoder for a long file name."""
    name = os.path.basename(source_of(spec))
    return name if len(name) <= NAME_WIDTH else getattr(spec, "kind", name)


def _weights(recipe: Recipe) -> str:
    return recipe.decoder.dtype if recipe.decoder.quantisation == "none" else recipe.decoder.quantisation
