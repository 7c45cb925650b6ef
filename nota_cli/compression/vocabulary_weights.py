"""The files of a decoder folder with the rows of some tokens alone; no other weight is touched."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from nota_cli.errors import CheckpointError, listing
from nota_cli.weights.files import INDEX, SINGLE, open_safetensors, read_json, refuse_non_finite, tensor_shapes
from nota_cli.weights.files import weight_files as checked_files

PER_TOKEN = re.compile(r"(^|\.)(embed_tokens\.weight|lm_head\.weight|lm_head\.bias)$")
EMBEDDING_OR_HEAD = re.compile(r"(^|\.)(embed_tokens|lm_head)\.")


def weight_files(folder: Path) -> list[Path]:
    """The files of weights; each is there and holds what the index says."""
    others = sorted(folder.glob("*.safetensors"))
    if not (folder / INDEX).is_file() and not (folder / SINGLE).is_file():
        if len(others) != 1:  # quantizers have names of their own
            raise CheckpointError(f"decoder {folder}: no {SINGLE} there, nor {INDEX}. Convert its weights first.")
        return others
    return checked_files(folder)


def count_rows(folder: Path, files: Sequence[Path]) -> int:
    """Rows of the embedding, and of the output layer if it is stored."""
    everything = {name: shape for file in files for name, shape in tensor_shapes(file).items()}
    sizes = {name: shape for name, shape in everything.items() if EMBEDDING_OR_HEAD.search(name)}
    packed = [name for name in sizes if not PER_TOKEN.search(name)]
    if packed:
        raise CheckpointError(
            f"decoder {folder}: embedding or output layer is quantized; trim first.\n{listing(packed)}"
        )
    rows = {shape[0] for shape in sizes.values()}
    if len(rows) != 1 or not any(name.endswith("embed_tokens.weight") for name in sizes):
        found = [f"{name}: {list(shape)}" for name, shape in sizes.items()] or ["neither"]
        raise CheckpointError(
            f"decoder {folder}: an embed_tokens.weight is needed, and if stored an lm_head of as many rows; there are\n"
            f"{listing(found)}"
        )
    return rows.pop()


def write_weights(folder: Path, files: Sequence[Path], part: Path, old_ids: Sequence[int | None]) -> None:
    """Copy the files of weights one by one; where rows are tokens, the rows of `old_ids` alone."""
    total = 0
    for file in files:
        with open_safetensors(file) as source:
            tensors = {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118 (it is no dict)
            refuse_non_finite(file, tensors)
            for name in filter(PER_TOKEN.search, tensors):
                tensors[name] = _take(tensors[name], old_ids)
            total += sum(tensor.nbytes for tensor in tensors.values())
            save_file(tensors, part / file.name, metadata=source.metadata())
    if (folder / INDEX).is_file():
        index = read_object(folder / INDEX)
        write_json(part / INDEX, {**index, "metadata": {**(index.get("metadata") or {}), "total_size": total}})


def _take(tensor: Tensor, old_ids: Sequence[int | None]) -> Tensor:
    """Rows of a matrix or entries of a bias; a new row is the mean of all, as where the full decoder is loaded."""
    taken = tensor[torch.tensor([number for number in old_ids if number is not None])]
    fresh = len(old_ids) - len(taken)
    if not fresh:
        return taken
    mean = tensor.mean(dim=0, dtype=torch.float32).to(tensor.dtype) if tensor.ndim == 2 else tensor.new_zeros(())
    return torch.cat([taken, mean.expand(fresh, *taken.shape[1:])])


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds."""
    try:
        return read_json(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def write_json(path: Path, values: Any, indent: int | None = 2) -> None:
    """Write a JSON file; `indent` None puts all on one line."""
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
