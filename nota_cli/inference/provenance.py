"""What a run's texts depend on, in few bytes: recipe, weights, annotation."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nota_cli.errors import DataError
from nota_cli.hub import local_path, weights_of
from nota_cli.paths import audio_path
from nota_cli.recipe.load import own_decoder
from nota_cli.recipe.schema import BaseRecipe, Recipe

WHOLE = 64 * 2**20  # bytes up to which a file is read from end to end
SAMPLES, SAMPLE = 64, 2**16  # what is read of a larger one, besides its beginning and its end
EDGE = 2**20
SUFFIXES = {
    ".safetensors",
    ".json",
    ".yaml",
    ".pth",
    ".pt",
    ".bin",
    ".model",
    ".txt",
    ".jinja",
    ".onnx",
    ".weights",
    ".npy",
}
IGNORED_FILES = {"trainer", "samples", "metrics.json"}  # what of a checkpoint does not change what it says
DIGITS = 16
MACHINE_LOCAL_KEYS = ("audio_root", "recordings", "large_files")
"""What of a run key may differ between the machines of a run, and after its files were moved."""
PATH_KEYS = ("path", "tokenizer")  # of a part: where its files lie


def recipe_values(recipe: BaseRecipe, *, paths: bool = False) -> dict[str, Any]:
    """The recipe without what no text depends on: descriptions, data, training, the size of batches.

    Nor do texts depend on where weights lie, which have hashes of their own; `places` keeps it.
    """
    values = recipe.model_dump(mode="json", exclude={"name", "description", "data", "train", "checkpoint"})
    for settings in (values["generate"], *values["generate"].get("tasks", {}).values()):
        settings.pop("batch_size", None)
        settings.pop("fallback_text", None)
    for part in values.values():
        if isinstance(part, dict) and not paths:
            for name in PATH_KEYS:
                part.pop(name, None)
    return values


def value_hash(values: Any) -> str:
    """Hexadecimal digits that change with JSON values."""
    return data_hash(json.dumps(values, sort_keys=True).encode())


def data_hash(data: bytes) -> str:
    """Hexadecimal digits that change with the bytes; of a small file they are `file_hash`'s."""
    return hashlib.sha256(data).hexdigest()[:DIGITS]


def file_hash(path: Path) -> str:
    """Hexadecimal digits that change with the file.

    Up to 64 MiB every byte counts. Of a larger file it is the size, the first and the last MiB and 64 places between:
    gigabytes of weights take milliseconds. What those miss, `large_files` may tell.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size <= WHOLE:
                return hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]
            digest = hashlib.sha256(str(status.st_size).encode())
            step = status.st_size // SAMPLES
            pieces = [(0, EDGE), *((i * step, SAMPLE) for i in range(1, SAMPLES)), (status.st_size - EDGE, EDGE)]
            for start, size in pieces:
                file.seek(start)
                digest.update(file.read(size))
            return digest.hexdigest()[:DIGITS]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}.") from error


def weight_hashes(parts: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """For each part of a system the hash of each of its files, by name inside the part's folder."""
    return {part: {name: file_hash(file) for name, file in part_files(path)} for part, path in parts.items()}


def large_files(parts: Mapping[str, Path]) -> dict[str, int]:
    """When each file that `file_hash` does not read whole was changed last, in nanoseconds, by part and name."""
    times = {}
    for part, path in parts.items():
        for name, file in part_files(path):
            status = file.stat()
            if status.st_size > WHOLE:
                times[f"{part}/{name}"] = status.st_mtime_ns
    return times


def weight_paths(recipe: BaseRecipe) -> dict[str, Path]:
    """Where the weights of each part lie; a part inside the checkpoint's folder is left out.

    Raises:
        CheckpointError: they are neither here nor on the hub.
    """
    with weights_of(recipe):
        return _weight_paths(recipe)


def _weight_paths(recipe: BaseRecipe) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    if recipe.checkpoint is not None:
        checkpoint = local_path(recipe.checkpoint, kind="checkpoint")
        paths["checkpoint"] = checkpoint
        if isinstance(recipe, Recipe):
            recipe = recipe.model_copy(update={"decoder": own_decoder(recipe.decoder, checkpoint)})
    for key, path in recipe.weight_paths().items():
        section, _, name = key.rpartition(".")
        if name == "tokenizer":
            paths["tokenizer"] = local_path(path, kind="tokenizer")
        else:
            paths[section or name] = local_path(path)
    paths = {part: path.resolve() for part, path in paths.items()}
    whole = paths.get("checkpoint")
    return {part: path for part, path in paths.items() if path is whole or whole not in path.parents}


def combined(hashes: Mapping[str, Mapping[str, str]]) -> str:
    """One hash of all."""
    lines = [
        f"{part} {name} {file_digest}"
        for part, files in sorted(hashes.items())
        for name, file_digest in sorted(files.items())
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:DIGITS]


def recordings_hash(names: Iterable[str], audio_root: Path) -> str:
    """Hexadecimal digits that change with a recording's name, size or time of last change, not with the root."""
    digest = hashlib.sha256()
    for name in dict.fromkeys(names):
        try:
            status = os.stat(audio_path(audio_root, name))
            about = f"{status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError):  # the scan reports it
            about = "absent"
        digest.update(f"{name}\0{about}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:DIGITS]


def run_provenance(
    recipe: BaseRecipe, test_set: dict[str, str], asked: dict[str, Any], options: dict[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a report says that its texts were made of, and its run key, all that they depend on; both JSON values.

    Made once, for hashing takes time. If the run key changes, finished rows are no longer those of the same run.

    Args:
        recipe: as it is run.
        test_set: `annotation` (its path; empty for recordings that were named themselves), `hash` (of its bytes, or
            of the recordings' names), `audio_root` and `recordings` (see `recordings_hash`).
        asked: `task` and `limit`.
        options: `long` and `load_format`.
    """
    dummy = options["load_format"] == "dummy"  # its weights are none; of what shape they are, places tell
    parts = {} if dummy else weight_paths(recipe)
    weights, values = weight_hashes(parts), recipe_values(recipe, paths=dummy)
    changed = large_files(parts)
    run_key = {
        "recipe": values,
        "weights": weights,
        "large_files": changed,
        "annotation" if test_set["annotation"] else "recording_names": test_set["hash"],
        "audio_root": os.path.realpath(test_set["audio_root"]),
        "recordings": test_set["recordings"],
        **asked,
        **options,
    }
    report = {
        "recipe": {"name": recipe.name, "hash": value_hash(values)},
        "checkpoint": {"path": recipe.checkpoint, "hash": combined(weights), "files": weights, "large_files": changed},
        "test_set": test_set | asked,
        "run_key": value_hash({key: value for key, value in run_key.items() if key not in MACHINE_LOCAL_KEYS}),
    }
    return report, run_key


def part_files(path: Path) -> Iterator[tuple[str, Path]]:
    """Files of a part that its answers depend on, with their names inside it: weights, configs, tokenizers."""
    if path.is_file():
        yield path.name, path
        return
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path)
        if file.suffix in SUFFIXES and not IGNORED_FILES & set(inside.parts) and file.is_file():
            yield str(inside), file
