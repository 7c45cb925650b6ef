"""What a shell offers where the command line wants a recipe, a checkpoint or a task."""

import os
from collections.abc import Callable
from pathlib import Path


def complete_recipe(incomplete: str) -> list[str]:
    """What a shell offers for a recipe: the names of shipped ones, YAML files, and folders on the way to them."""
    from nota_cli.recipe.load import recipe_names

    names = [name for name in recipe_names() if name.startswith(incomplete)]
    return names + _complete_path(incomplete, lambda path: path.suffix in (".yaml", ".yml"))


def complete_checkpoint(incomplete: str) -> list[str]:
    """What a shell offers for a checkpoint: `.pth` files, and folders."""
    return _complete_path(incomplete, lambda path: path.suffix in (".pth", ".pt"))


def complete_task(incomplete: str) -> list[str]:
    """What a shell offers for a task."""
    from nota_cli.data.tasks import FAMILIES

    return [task for task in FAMILIES if task.startswith(incomplete.lower())]


def _complete_path(incomplete: str, fits: Callable[[Path], bool]) -> list[str]:
    """Files that fit and folders whose path begins as what was typed; a folder that is a checkpoint ends without /."""
    folder, start = os.path.split(incomplete)
    try:
        inside = sorted(Path(os.path.expanduser(folder) or ".").iterdir())
    except OSError:
        return []
    paths = [path for path in inside if path.name.startswith(start) and (start or not path.name.startswith("."))]
    names = [(path, os.path.join(folder, path.name)) for path in paths if path.is_dir() or fits(path)]
    return [
        name if path.is_file() or (path / "recipe.yaml").is_file() else os.path.join(name, "") for path, name in names
    ]
