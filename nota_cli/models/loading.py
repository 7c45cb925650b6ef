"""A model that runs: built, its adapters made ready, and a line on stderr that says what it runs on."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nota_cli.console import debug, say, waiting
from nota_cli.imports import heavy_imports
from nota_cli.recipe.schema import LoadFormat, Recipe

if TYPE_CHECKING:
    from nota_cli.models.families.salmonn import AudioLM


@dataclass(frozen=True)
class Loading:
    """How weights come into the model; see `nota_cli.models.build.build`."""

    format: LoadFormat = "auto"
    allow_missing: bool = False


def load(recipe: Recipe, device: str, loading: Loading = Loading()) -> "AudioLM":
    """Build the model and say what it runs on."""
    started = time.monotonic()
    with waiting(f"loading recipe {recipe.name} on {device}"):
        with heavy_imports():
            from nota_cli.models.build import build
            from nota_cli.models.inference_lora import prepare_to_run

        model = build(recipe, device, load_format=loading.format, allow_missing=loading.allow_missing, lean=True)
        prepare_to_run(model)
    debug(f"loaded in {time.monotonic() - started:.1f} s")
    kernel, how = model.decoder.kernel, {"gptq": "GPTQ", "nf4": "nf4"}.get(recipe.decoder.quantization)
    note = "" if how is None else f", 4-bit {how} decoder on the {kernel} kernel"
    weights = " with dummy weights (no checkpoint is read, its texts mean nothing)" if loading.format == "dummy" else ""
    say(f"recipe {recipe.name}{weights} on {device}{note}")
    return model
