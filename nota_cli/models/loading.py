"""A model that runs: built, and a line on stderr that says what it runs on."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nota_cli.console import debug, say, waiting
from nota_cli.imports import heavy_imports
from nota_cli.recipe.quantizers import QUANTIZERS
from nota_cli.recipe.schema import BaseRecipe, Recipe
from nota_cli.recipe.section import LoadFormat

if TYPE_CHECKING:
    from nota_cli.models.families.base import AudioModel


@dataclass(frozen=True)
class Loading:
    """How weights come into the model; see `nota_cli.models.build.build`."""

    format: LoadFormat = "auto"
    allow_missing: bool = False


def load(recipe: BaseRecipe, device: str, loading: Loading = Loading()) -> "AudioModel":
    """Build the model and say what it runs on."""
    started = time.monotonic()
    with waiting(f"loading recipe {recipe.name} on {device}"):
        with heavy_imports():
            from nota_cli.models.build import build

        model = build(recipe, device, "run", load_format=loading.format, allow_missing=loading.allow_missing)
    debug(f"loaded in {time.monotonic() - started:.1f} s")
    stored = recipe.decoder.quantization if isinstance(recipe, Recipe) else "none"
    method = QUANTIZERS.get(stored)
    note = "" if method is None else f", 4-bit {method.label} decoder on the {model.kernel} kernel"
    weights = " with dummy weights (no checkpoint is read, its texts mean nothing)" if loading.format == "dummy" else ""
    say(f"recipe {recipe.name}{weights} on {device}{note}")
    return model
