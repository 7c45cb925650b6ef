"""Checkpoint and decoder folders that become another one: read, refused, copied file by file."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from nota_cli.errors import CheckpointError, UsageError
from nota_cli.hub import TEXT_SUFFIXES, local_path
from nota_cli.models.checkpoint import WEIGHTS
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.schema import Recipe
from nota_cli.weights.files import INDEX, open_safetensors, refuse_non_finite, weight_files
from nota_cli.weights.state_dicts import without_wrapping_modules


def read_recipe(checkpoint: Path) -> Recipe:
    """The recipe of a checkpoint folder of ours.

    Raises:
        CheckpointError: it is no such folder.
    """
    if not (checkpoint / "recipe.yaml").is_file() or not (checkpoint / WEIGHTS).is_file():
        raise CheckpointError(
            f"checkpoint {checkpoint}: not a folder with recipe.yaml and {WEIGHTS}. "
            "Train one, or make one of a .pth with `nota checkpoint convert`."
        )
    return load_recipe(str(checkpoint))


def refuse_used(out: Path) -> None:
    """Refuse to write a checkpoint over anything.

    Raises:
        UsageError: `out` is there and holds something, or is a file.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already. Remove it, or choose another folder.")


def decoder_folder(recipe: Recipe) -> Path:
    """Where the decoder of a checkpoint folder's recipe lies.

    Raises:
        CheckpointError: the recipe has a `config` alone, so there are no weights.
    """
    if recipe.decoder.path is None:
        raise CheckpointError("decoder: the checkpoint's recipe has no decoder.path, so it holds no decoder weights")
    return local_path(recipe.decoder.path)


def rewrite_decoder(
    source: Path,
    target: Path,
    *,
    rename: Callable[[str], str | None] = lambda name: name,
    change: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Copy a Hugging Face folder of safetensors, one file in memory at a time.

    Args:
        source: with its config and, usually, its tokenizer.
        target: a folder that is not there yet.
        rename: a tensor's new name, or None to leave it out.
        change: a tensor, by its old name, to what is stored.
        config: takes the place of config.json.

    Raises:
        CheckpointError: the weights are no safetensors, missing or damaged.
    """
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file() and file.suffix in TEXT_SUFFIXES and not file.name.endswith(".index.json"):
            shutil.copyfile(file, target / file.name)
    if config is not None:
        write_json(target / "config.json", config)
    copy_weights(weight_files(source), target, rename=rename, change=change)


def copy_weights(
    files: Sequence[Path],
    target: Path,
    *,
    rename: Callable[[str], str | None] = lambda name: name,
    change: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor,
) -> None:
    """Copy files of weights, one in memory at a time, and write their index anew if there is one.

    Args:
        files: as `weight_files` gives them.
        target: a folder that is there.
        rename: a tensor's new name, or None to leave it out; both without the prefixes of DDP or `torch.compile`.
        change: a tensor, by its old name, to what is stored.

    Raises:
        CheckpointError: a file is damaged, or holds NaN or infinity.
    """
    shards: dict[str, str] = {}
    size = 0
    for file in files:
        with open_safetensors(file) as content:
            bare = {name: without_wrapping_modules(name) for name in content.keys()}  # noqa: SIM118  (it is no dict)
            names = {name: rename(plain) for name, plain in bare.items()}
            tensors = {name: content.get_tensor(name) for name, new in names.items() if new is not None}
            metadata = content.metadata()
        refuse_non_finite(file, tensors)
        kept = {str(names[name]): change(bare[name], tensor) for name, tensor in tensors.items()}
        if kept:
            save_file(kept, target / file.name, metadata)
        shards |= dict.fromkeys(kept, file.name)
        size += sum(tensor.nbytes for tensor in kept.values())
    if (files[0].parent / INDEX).is_file():
        write_json(target / INDEX, {"metadata": {"total_size": size}, "weight_map": shards})


def write_json(path: Path, values: Any, indent: int | None = 2) -> None:
    """Write a JSON file into a folder that is being made; `indent` None puts all on one line."""
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
