"""The data that a recipe trains on, looked for before a run: what is missing, and which recipe and key name it."""

import os
from collections.abc import Iterator
from pathlib import Path

from nota_cli.console import warn
from nota_cli.errors import RecipeError, listing, printable
from nota_cli.paths import path_note
from nota_cli.recipe.load import named_in
from nota_cli.recipe.schema import Recipe, Source


def with_data_there(recipe: Recipe, name: str) -> Recipe:
    """The recipe as it can be trained: optional sources that are not there are left out, with a warning.

    Args:
        recipe: as `load_recipe` gave it.
        name: what `load_recipe` was given; the files that it and its bases lie in are named in messages.

    Raises:
        RecipeError: annotations, audio folders or a checkpoint to start from are not there; all are named at once.
    """
    there = []
    for source in recipe.data.train:
        if source.optional and not os.path.isfile(source.annotation):
            warn(f"recipe {recipe.name!r} is trained without {source.annotation}, which is not there")
        else:
            there.append(source)
    data = recipe.data.model_copy(update={"train": there})
    recipe = recipe.model_copy(update={"data": data})
    missing = list(_missing(recipe))
    if missing:
        files = named_in(name)
        lines = []
        for key, path in missing:
            file = next((files[part] for part in (key, ".".join(key.split(".")[:2])) if part in files), None)
            note = path_note(path)
            lines.append(
                f"{key}: there is no {printable(path)}"
                + (f", which {printable(os.path.relpath(file))} names" if file is not None else "")
                + (f". {note[:-1]}" if note else "")
            )
        raise RecipeError(
            f"recipe {recipe.name!r} names what is not there:\n{listing(lines)}\n"
            "Correct the paths or make the files (nota prepare --help). What a recipe does not say it takes from its "
            "base: validation: [] under data, or --set data.validation=[], trains without validation."
        )
    return recipe


def _missing(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Key and path of everything that is not there."""
    for part, sources in (("train", recipe.data.train), ("validation", recipe.data.validation)):
        for index, source in enumerate(sources):
            for key, path in _paths(source):
                if not os.path.exists(path):
                    yield f"data.{part}.{index}.{key}", path
    init = recipe.train.init
    if init is not None and not Path(init).exists():
        yield "train.init", init


def _paths(source: Source) -> Iterator[tuple[str, str]]:
    yield "annotation", source.annotation
    yield "audio_root", source.audio_root
    if source.background is not None:
        yield "background", source.background
        yield "background_root", source.background_root or source.audio_root
