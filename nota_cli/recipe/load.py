"""Reading recipes: YAML, inheritance, `--set key=value`, all errors reported together."""

import difflib
import hashlib
import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from nota_cli.assets import home
from nota_cli.errors import RecipeError, listing
from nota_cli.files import refuse_lfs_pointer
from nota_cli.recipe.schema import Recipe

DEFAULT_RECIPE = "tiny"


def recipe_names() -> dict[str, Path]:
    """The recipes that ship with nota, by name."""
    return {path.stem: path for path in sorted((home() / "configs").rglob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """A recipe's file, from its name, its path, or a checkpoint folder that holds `recipe.yaml`.

    Raises:
        RecipeError: there is none; the message suggests near names.
    """
    path = Path(name)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    if path.is_file():
        return path
    names = recipe_names()
    if name in names:
        return names[name]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names) or 'none'}."
    raise RecipeError(f"no recipe {name!r}: neither a file nor a recipe's name; {hint}")


def load_recipe(name: str = DEFAULT_RECIPE, settings: list[str] | None = None) -> Recipe:
    """Read a recipe by name, file or checkpoint folder, and apply `a.b=value` settings (values are YAML).

    Relative paths of weights, annotations and audio roots are resolved against the recipe file's own folder when
    they exist there (or begin with a dot), and otherwise left as they are: relative to the working folder, or hub ids.

    Raises:
        RecipeError: the file is not a recipe; every unknown key and bad value is named at once.
    """
    file = find_recipe(name)
    files: list[Path] = []
    values = _read(file, (), files)
    for setting in settings or []:
        _apply(values, setting)
    values.setdefault("name", file.stem)
    try:
        return Recipe.model_validate(values).read_from(files)
    except ValidationError as error:
        raise RecipeError(f"recipe {file}:\n{listing(_problems(error))}") from None


def load_system(name: str, checkpoint: Path | None = None, settings: list[str] | None = None) -> Recipe:
    """A recipe as `load_recipe` reads it, with the checkpoint in it that is given, or whose folder `name` is."""
    loaded = load_recipe(name, settings)
    if checkpoint is None and (Path(name) / "recipe.yaml").is_file():
        checkpoint = Path(name)
    if checkpoint is None:
        return loaded
    changes: dict[str, object] = {"checkpoint": str(checkpoint)}
    own = loaded.checkpoint is not None and loaded.decoder.path == str(Path(loaded.checkpoint) / "decoder")
    if own and (checkpoint / "decoder").is_dir():
        # The recipe's decoder belongs to its own checkpoint; another checkpoint brings another one.
        changes["decoder"] = loaded.decoder.model_copy(update={"path": str(checkpoint / "decoder")})
    return loaded.model_copy(update=changes)


def recipe_hash(recipe: Recipe) -> str:
    """Twelve hexadecimal digits that change whenever a value of the recipe does."""
    return hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()[:12]


def dump_recipe(recipe: Recipe, *, ascii_only: bool = False) -> str:
    """The recipe as YAML that `load_recipe` reads back, defaults left out; other characters as escapes if asked for."""
    values = recipe.model_dump(mode="json", exclude_defaults=True)
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=not ascii_only))


def _read(file: Path, seen: tuple[Path, ...], files: list[Path]) -> dict[str, Any]:
    """A recipe's values over those of its base; the files that were read are added to `files`."""
    if file in seen:
        raise RecipeError(f"recipe {file}: `base` goes round in a circle")
    refuse_lfs_pointer(file, error=RecipeError)
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"recipe {file} cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"recipe {file} is not a mapping of keys to values")
    files.append(file)
    values = dict(_resolve_paths(values, Path(os.path.abspath(file)).parent))
    base = values.pop("base", None)
    if base is None:
        return values
    return _merge(_read(_find_base(str(base), file), (*seen, file), files), values)


def _find_base(base: str, file: Path) -> Path:
    """A recipe or checkpoint folder beside `file`, or else what `find_recipe` finds."""
    for beside in (file.parent / f"{base}.yaml", file.parent / base, file.parent / base / "recipe.yaml"):
        # A user's own version of a shipped recipe may keep its name.
        if beside.is_file() and beside.absolute() != file.absolute():
            return beside
    return find_recipe(base)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


PATH_KEYS = {"path", "tokenizer", "checkpoint", "annotation", "audio_root", "background", "background_root", "init"}


def _resolve_paths(node: Any, folder: Path) -> Any:
    if isinstance(node, list):
        return [_resolve_paths(item, folder) for item in node]
    if not isinstance(node, dict):
        return node
    resolved = {}
    for key, value in node.items():
        if key in PATH_KEYS and isinstance(value, str) and (value.startswith(".") or (folder / value).exists()):
            # Not resolve(): links that a user set up (a data folder on another disk) stay as they are named.
            resolved[key] = os.path.normpath(folder / value)
        else:
            resolved[key] = _resolve_paths(value, folder)
    return resolved


def _apply(values: dict[str, Any], setting: str) -> None:
    key, separator, text = setting.partition("=")
    if not separator or not key:
        raise RecipeError(f"--set {setting!r}: write it as key=value, for example --set generate.beams=1")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {setting!r}: the value is not YAML: {error}") from error
    *parents, last = key.split(".")
    node = values
    for parent in parents:
        inner = node.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {setting!r}: {parent} is a value, not a section")
        node = inner
    node[last] = value


def _problems(error: ValidationError) -> list[str]:
    problems = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "recipe"
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1]), _known_keys(item["loc"][:-1]), n=1)
            problems.append(f"{where}: unknown key" + (f"; did you mean {near[0]}?" if near else ""))
        elif item["type"] == "missing":
            problems.append(f"{where}: missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            problems.append(f"{where}: {message} (given: {item['input']!r})" if item["loc"] else message)
    return problems


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    schema: Any = Recipe.model_json_schema()
    definitions = schema["$defs"]
    node = schema
    for part in location:
        if isinstance(part, int):
            node = node.get("items", {})
        else:
            node = node.get("properties", {}).get(part, node.get("additionalProperties", {}))
        options = [node, *node.get("anyOf", []), *node.get("allOf", [])] if isinstance(node, dict) else []
        reference = next((option["$ref"] for option in options if "$ref" in option), None)
        if reference:
            node = definitions[reference.rsplit("/", 1)[-1]]
    return list(node.get("properties", {})) if isinstance(node, dict) else []
