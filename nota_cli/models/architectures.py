"""Published models by name: the shape of each, so that one is built at its true size with nothing downloaded."""

import difflib
from pathlib import Path
from typing import Any

from nota_cli.assets import home
from nota_cli.errors import CheckpointError, RecipeError
from nota_cli.files import refuse_lfs_pointer
from nota_cli.parsing import decode, parse_json
from nota_cli.recipe.encoders import ENCODERS

WEIGHT_SUFFIXES = (".pt", ".pth")


def architecture(path: str, kind: str | None = None) -> dict[str, Any]:
    """What is known about the model that a recipe names with `path`; no weights are looked for.

    Args:
        path: a local folder with `config.json`, whose values count before all; else a hub id or file name, of which
            the last component, in lower case and without `.pt`, is looked up in `configs/architectures/`; of a folder
            in a repository the last two with a hyphen between.
        kind: what the recipe takes it for, if it matters; a folder's own config.json is not held against it.

    Returns:
        `source`: hub id, publisher's file name or folder; `kind`: "whisper", "beats", "ced", "eat" or "decoder";
        `parameters`: the published number of what nota builds of it (of Whisper the encoder, no classifiers), None for
        a local folder; `config`: the values that make it; perhaps `comment`.

    Raises:
        RecipeError: no architecture of that name, or one of another kind.
        CheckpointError: the folder's config.json is not a JSON object.
    """
    file = Path(path) / "config.json"
    if file.is_file():
        config = _read(file)
        model_type = config.get("model_type")
        kind = model_type if model_type in ENCODERS else "decoder"
        return {"source": str(path), "kind": kind, "parameters": None, "config": config}
    name = Path(path).name.lower()
    for suffix in WEIGHT_SUFFIXES:
        name = name.removesuffix(suffix)
    known = names()
    pair = "-".join(Path(path).parts[-2:]).lower()
    name = pair if pair in known else name
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        raise RecipeError(
            f"{path}: dummy weights need its architecture, a file configs/architectures/{name}.json or a local folder "
            f"with config.json, and there is neither. {'Near' if near else 'Known'}: {', '.join(near or known)}"
        )
    resolved = _resolve(name)
    if kind not in (None, resolved["kind"]):
        raise RecipeError(f"{path}: the recipe takes it for kind {kind}, but it is of kind {resolved['kind']}")
    return resolved


def names() -> list[str]:
    """Names of all the architectures that ship with nota."""
    return sorted(file.stem for file in _folder().glob("*.json"))


def _folder() -> Path:
    return home() / "configs" / "architectures"


def _resolve(name: str) -> dict[str, Any]:
    """A file's content; with `same_as` its keys, and those of its `config`, are laid over the other one's."""
    own = _read(_folder() / f"{name}.json")
    if "same_as" not in own:
        return own
    other = _resolve(own.pop("same_as"))
    other.pop("comment", None)  # what it says is about the other one
    return {**other, **own, "config": {**other["config"], **own.get("config", {})}}


def _read(file: Path) -> dict[str, Any]:
    refuse_lfs_pointer(file, error=CheckpointError)
    try:
        content = parse_json(decode(file.read_bytes()), allow_nan=True)
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is not a JSON object")
    return content
