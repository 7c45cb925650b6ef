"""The data that a recipe trains on, looked for before a run: what is missing, and which recipe and key name it."""

import os
from collections.abc import Iterator
from pathlib import Path

from nota_cli.console import warn
from nota_cli.errors import RecipeError, listing, printable
from nota_cli.paths import path_note, shard_files
from nota_cli.recipe.load import AnyRecipe, named_in, recipe_names
from nota_cli.recipe.schema import Recipe
from nota_cli.recipe.training import Source


def stages_with_data_there(recipe: Recipe, name: str) -> Recipe:
    """The recipe with every stage as `with_data_there` has it; what is missing is named for all stages at once.

    Raises:
        RecipeError: as `with_data_there`.
    """
    stages, problems = [], []
    for number, stage in enumerate(recipe.stages, start=1):
        try:
            stages.append(with_data_there(stage, name))
        except RecipeError as error:
            problems.append(f"stage {number}, {error}")
    if problems:
        raise RecipeError("\n".join(problems))
    return recipe.model_copy(update={"stages": stages})


def without_absent_sources(recipe: AnyRecipe) -> AnyRecipe:
    """The recipe without the optional training sources that are not there, each warned of."""
    there = []
    for source in recipe.data.train:
        if source.optional and not all(map(os.path.isfile, shard_files(source.annotation))):
            warn(f"recipe {recipe.name!r} is trained without {source.annotation}, which is not there")
        else:
            there.append(source)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": there})})


def with_data_there(recipe: AnyRecipe, name: str) -> AnyRecipe:
    """The recipe as it can be trained: optional sources that are not there are left out, with a warning.

    Args:
        recipe: as `load_recipe` gave it.
        name: what `load_recipe` was given; the files that it and its bases lie in are named in messages.

    Raises:
        RecipeError: annotations, audio folders or a checkpoint to start from are not there; all are named at once.
    """
    recipe = without_absent_sources(recipe)
    missing = list(_missing(recipe))
    if missing:
        files = named_in(name)
        lines: dict[tuple[str, str], str] = {}
        for key, path in missing:
            section = ".".join(key.split(".")[:2])
            file = files.get(section, files.get(key))
            by = "" if file is None else f", which {_label(file)} names"
            lines.setdefault(
                (section, path), f"{key}: there is no {printable(path)}{by}. {path_note(path) or ''}".strip()
            )
        raise RecipeError(
            f"recipe {name}: not all that it names is there:\n{listing(list(lines.values()))}\n"
            "Correct the paths, or make the files (nota prepare --help). What a recipe leaves out, its base gives: "
            "`validation: []` under `data`, or --set data.validation=[], trains without validation."
        )
    return recipe


def _label(file: Path) -> str:
    """A recipe's file, or its name where it ships with nota."""
    if recipe_names().get(file.stem) == file:
        return f"the shipped recipe {file.stem}"
    return printable(min(os.path.relpath(file), str(file), key=len))


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
    for file in shard_files(source.annotation):
        yield "annotation", file
    yield "audio_root", source.audio_root
    if source.background is not None:
        yield "background", source.background
        yield "background_root", source.background_root or source.audio_root
