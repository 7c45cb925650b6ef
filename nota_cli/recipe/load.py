"""Reading recipes: YAML, inheritance, `--set key=value`, all errors reported together."""

import difflib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from nota_cli.assets import home
from nota_cli.errors import RecipeError, listing
from nota_cli.files import refuse_lfs_pointer
from nota_cli.parsing import decode, dump_yaml, parse_yaml
from nota_cli.paths import expand_path, near_paths
from nota_cli.recipe.connectors import CONNECTORS, ConnectorKind
from nota_cli.recipe.encoders import ENCODERS, EncoderKind
from nota_cli.recipe.families import DEFAULT_FAMILY, family_of
from nota_cli.recipe.schema import BaseRecipe, Decoder, Recipe

DEFAULT_RECIPE = "tiny"
AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


def recipe_names() -> dict[str, Path]:
    """The recipes that ship with nota, by name."""
    return {path.stem: path for path in sorted((home() / "configs").rglob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """A recipe's file, from its name, its path, or a checkpoint folder that holds `recipe.yaml`.

    Raises:
        RecipeError: there is none; the message suggests near names.
    """
    path = Path(_expanded(name))
    if path.is_dir() and (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    if path.is_file():
        return path
    names = recipe_names()
    if name in names:
        return names[name]
    files = [near for near, _ in near_paths(name) if _is_recipe(Path(near))]
    near = files or difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.4)
    what = "a folder without recipe.yaml" if path.is_dir() else "neither a file nor a recipe's name"
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif path.is_dir() or path.suffix or os.sep in name:
        hint = "check the path, or take one of `nota recipes list`."
    else:
        hint = f"there are: {', '.join(names) or 'none'}."
    raise RecipeError(f"no recipe {name!r}: {what}; {hint}")


def _is_recipe(path: Path) -> bool:
    return (path / "recipe.yaml").is_file() or (path.is_file() and path.suffix in (".yaml", ".yml"))


def _expanded(path: str) -> str:
    try:
        return expand_path(path)
    except ValueError as error:
        raise RecipeError(str(error)) from None


def load_any_recipe(name: str = DEFAULT_RECIPE, settings: list[str] | None = None) -> BaseRecipe:
    """Read a recipe of any family by name, file or checkpoint folder, with `a.b=value` settings over it (in YAML).

    A setting merges into a section as a recipe does into its `base:`; any other value, a list too, is replaced.

    Relative paths of weights, annotations and audio roots are resolved against the recipe file's own folder when
    they exist there (or begin with a dot), and otherwise left as they are: relative to the working folder, or hub ids.
    What a recipe that ships with nota names, and nota does not ship, is the user's: it lies in the working folder.

    Raises:
        RecipeError: the file is not a recipe; every unknown key and bad value is named at once.
    """
    file = find_recipe(name)
    chain = _chain(file)
    given = parse_settings(settings or [])
    stage_settings = given.pop("stages", None)
    values = _over(_merged(chain), given)
    values.setdefault("name", file.stem)
    stage_files: list[list[Path]] = []
    if stage_settings is not None or values.get("stages"):
        stage_files = _expand_stages(values, chain, given, stage_settings)
    try:
        schema = family_of(values.get("family", DEFAULT_FAMILY)).recipe_class()
    except RecipeError as error:
        raise RecipeError(f"recipe {file}:\n{listing([str(error)])}") from None
    try:
        loaded = schema.model_validate(values).read_from([each for each, _ in reversed(chain)])
    except ValidationError as error:
        raise RecipeError(f"recipe {file}:\n{listing(_problems(error, schema))}") from None
    for stage, files in zip(getattr(loaded, "stages", []), stage_files, strict=True):
        stage.read_from([*files, *loaded.files])
    return loaded


def load_recipe(name: str = DEFAULT_RECIPE, settings: list[str] | None = None) -> Recipe:
    """Read a recipe of SALMONN's family, for what works on encoders, connector and decoder; see `load_any_recipe`.

    Raises:
        RecipeError: as `load_any_recipe`, or the recipe is of another family.
    """
    return salmonn_recipe(load_any_recipe(name, settings))


def salmonn_recipe(recipe: BaseRecipe) -> Recipe:
    """The recipe itself, if it is of SALMONN's family.

    Raises:
        RecipeError: it is of another one.
    """
    if not isinstance(recipe, Recipe):
        raise RecipeError(
            f"recipe {recipe.name!r} is of the family {recipe.family}, and this works on systems of an encoder, a "
            f"connector and a decoder alone (family {DEFAULT_FAMILY})"
        )
    return recipe


def load_system(name: str, checkpoint: Path | None = None, settings: list[str] | None = None) -> BaseRecipe:
    """A recipe of any family, with the checkpoint in it that is given, or whose folder `name` is."""
    loaded = load_any_recipe(name, settings)
    if checkpoint is None and (Path(name) / "recipe.yaml").is_file():
        checkpoint = Path(name)
    return loaded if checkpoint is None else loaded.with_checkpoint(checkpoint)


def starting_from(recipe: AnyRecipe, init: Path) -> AnyRecipe:
    """The recipe, its training begun from a checkpoint folder's weights."""
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"init": str(init)})})


def own_decoder(spec: Decoder, folder: Path) -> Decoder:
    """The decoder of a checkpoint folder where the recipe would else start one from random weights."""
    if spec.config is None or not (folder / "decoder").is_dir():
        return spec
    return spec.model_copy(update={"path": str(folder / "decoder"), "config": None, "tokenizer": None})


def recipe_hash(recipe: BaseRecipe) -> str:
    """Twelve hexadecimal digits that change whenever a value of the recipe does."""
    return hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()[:12]


def dump_recipe(recipe: BaseRecipe, *, ascii_only: bool = False) -> str:
    """The recipe as YAML that `load_recipe` reads back, defaults left out; other characters as escapes if asked for."""
    values = recipe.model_dump(mode="json", exclude_defaults=True)
    return dump_yaml(values, ascii_only=ascii_only)


def named_in(name: str) -> dict[str, Path]:
    """For each value that a recipe or one of its bases gives, by its dotted key, the file that gives it.

    Raises:
        RecipeError: there is no such recipe, it cannot be read, or its bases lead back to it.
    """
    return {key: file for file, values in _chain(find_recipe(name)) for key, _ in _leaves(values, "")}


def _merged(chain: list[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    """A recipe's values over those of its bases."""
    merged: dict[str, Any] = {}
    for _, values in chain:
        merged = _over(merged, values)
    return merged


def _expand_stages(
    values: dict[str, Any], chain: list[tuple[Path, dict[str, Any]]], given: dict[str, Any], of_stages: Any
) -> list[list[Path]]:
    """Make every stage of a recipe's values a whole recipe; returns the files that each stage's `base` was read from.

    Args:
        values: of the recipe, settings included; its `stages` are replaced.
        chain: the recipe's own and its bases' files.
        given: settings for the recipe; they hold in every stage, whatever its file says.
        of_stages: settings under `stages`: a list in their place, or what differs by the number of a stage.

    Raises:
        RecipeError: settings name a stage that is not there, or a `base` is not a recipe.
    """
    stages = of_stages if isinstance(of_stages, list) else values.get("stages", [])
    if not isinstance(stages, list):
        return []  # the schema says what is wrong
    numbered = of_stages if isinstance(of_stages, dict) else {}
    unknown = [key for key in numbered if key not in map(str, range(len(stages)))]
    if unknown or not (of_stages is None or isinstance(of_stages, list | dict)):
        raise RecipeError(
            f"--set stages.{unknown[0] if unknown else ''}: the recipe has {len(stages)} stages, numbered from 0: "
            "write stages.0.train.steps=10, say"
        )
    whole = {key: value for key, value in values.items() if key != "stages"}
    by = next((each for each, named in reversed(chain) if "stages" in named), chain[-1][0])
    files: list[list[Path]] = []
    expanded: list[Any] = []
    for number, written in enumerate(stages):
        setting = numbered.get(str(number), {})
        files.append([])
        if not isinstance(written, dict | None) or not isinstance(setting, dict):
            expanded.append(written if not isinstance(written, dict | None) else setting)
            continue
        own = dict(written or {})
        below = whole
        if own.get("base") is not None:
            base_chain = _chain(_find_base(str(own["base"]), by))
            files[-1] = [each for each, _ in reversed(base_chain)]
            below = {"name": base_chain[-1][0].stem, **_merged(base_chain)}
        own.pop("base", None)
        stage = _over(_over(_over(below, own), given), setting)
        stage.pop("stages", None)
        for part in (own, setting):
            if "stages" in part:
                stage["stages"] = part["stages"]
        starts = any(isinstance(part.get("train"), dict) and "init" in part["train"] for part in (own, setting))
        if number and not starts and isinstance(stage.get("train", {}), dict):
            stage["train"] = {**stage.get("train", {}), "init": None}  # from where the stage before it ends
        expanded.append(stage)
    values["stages"] = expanded
    return files


KINDS: dict[str, Mapping[str, EncoderKind | ConnectorKind]] = {"audio_encoder": ENCODERS, "connector": CONNECTORS}
"""Sections whose `kind` says which of their keys count."""


def _over(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Values over those of a base; where they name another kind, the base's settings of other kinds are left behind."""
    base = dict(base)
    for section, registry in KINDS.items():
        ours, theirs = values.get(section), base.get(section)
        if isinstance(ours, dict) and isinstance(theirs, dict) and ours.get("kind") in registry:
            others = {key for kind, entry in registry.items() if kind != ours["kind"] for key in entry.settings}
            base[section] = {key: value for key, value in theirs.items() if key not in others}
    return _merge(base, values)


def _chain(file: Path, seen: tuple[Path, ...] = ()) -> list[tuple[Path, dict[str, Any]]]:
    """The file of each recipe and what it says itself, the base of all first."""
    if file in seen:
        raise RecipeError(f"recipe {file}: `base` goes round in a circle")
    refuse_lfs_pointer(file, error=RecipeError)
    try:
        values = parse_yaml(decode(file.read_bytes()))
    except (OSError, ValueError) as error:
        raise RecipeError(f"recipe {file} cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"recipe {file} is not a mapping of keys to values")
    values = dict(_resolve_paths(_renamed(values), Path(os.path.abspath(file)).parent, _ships(file)))
    base = values.pop("base", None)
    above = [] if base is None else _chain(_find_base(str(base), file), (*seen, file))
    return [*above, (file, values)]


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
PATH_KEYS |= {"teacher"}


RENAMED_KEYS = {"quantisation": "quantization"}
"""Keys of earlier versions, whose recipes and checkpoints are read as they are."""


def _renamed(node: Any) -> Any:
    """The values with today's names for keys of earlier versions."""
    if isinstance(node, list):
        return [_renamed(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {RENAMED_KEYS.get(key, key): _renamed(value) for key, value in node.items()}


def _resolve_paths(node: Any, folder: Path, shipped: bool) -> Any:
    if isinstance(node, list):
        return [_resolve_paths(item, folder, shipped) for item in node]
    if not isinstance(node, dict):
        return node
    resolved = {}
    for key, value in node.items():
        if key in PATH_KEYS and isinstance(value, str) and (value.startswith(".") or (folder / value).exists()):
            # Not resolve(): links that a user set up (a data folder on another disk) stay as they are named.
            path = os.path.normpath(folder / value)
            resolved[key] = path if not shipped or os.path.exists(path) else os.path.relpath(path, home())
        else:
            resolved[key] = _resolve_paths(value, folder, shipped)
    return resolved


def _ships(file: Path) -> bool:
    return home() / "configs" in Path(os.path.abspath(file)).parents


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """The values of `--set a.b=value`, nested as in a recipe.

    Raises:
        RecipeError: one is no key=value or no YAML, or two of them set the same key to different values.
    """
    values: dict[str, Any] = {}
    by_key: dict[str, tuple[Any, str]] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        key = key.strip()
        if not separator or not all(key.split(".")):
            raise RecipeError(f"--set {setting!r}: write it as key=value, for example --set generate.beams=1")
        try:
            value = parse_yaml(text)
        except ValueError as error:
            raise RecipeError(f"--set {setting!r}: the value is not YAML: {error}") from error
        key = ".".join(RENAMED_KEYS.get(part, part) for part in key.split("."))
        value = _renamed(value)
        for path, leaf in _leaves(value, key):
            for other, (theirs, earlier) in by_key.items():
                same = other == path and theirs == leaf and type(theirs) is type(leaf)
                if not same and (other == path or _is_under(other, path) or _is_under(path, other)):
                    raise RecipeError(f"--set {earlier!r} and --set {setting!r} contradict each other; leave one out")
            by_key[path] = (leaf, setting)
        for part in reversed(key.split(".")):
            value = {part: value}
        values = _merge(values, value)
    return values


def _leaves(value: Any, key: str) -> list[tuple[str, Any]]:
    """Every value in nested sections that is no section itself, by its dotted key."""
    if isinstance(value, dict) and value:
        return [leaf for name, inner in value.items() for leaf in _leaves(inner, f"{key}.{name}" if key else str(name))]
    return [(key, value)]


def _is_under(key: str, section: str) -> bool:
    return key.startswith(f"{section}.")


def _problems(error: ValidationError, schema: type[BaseRecipe]) -> list[str]:
    problems = []
    of_recipe = {(item["loc"], item["msg"]) for item in error.errors()}
    for item in error.errors():
        if item["loc"][:1] == ("stages",) and (item["loc"][2:], item["msg"]) in of_recipe:
            continue  # what a stage has from the recipe itself
        where = ".".join(str(part) for part in item["loc"]) or "recipe"
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1]), _known_keys(schema, item["loc"][:-1]), n=1)
            problems.append(f"{where}: unknown key" + (f"; did you mean {near[0]}?" if near else ""))
        elif item["type"] == "missing":
            problems.append(f"{where}: missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            problems.append(f"{where}: {message} (given: {item['input']!r})" if item["loc"] else message)
    return problems


def _known_keys(recipe: type[BaseRecipe], location: tuple[int | str, ...]) -> list[str]:
    node: Any = recipe.model_json_schema()
    definitions = node["$defs"]
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
