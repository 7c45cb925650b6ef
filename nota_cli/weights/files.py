"""Reading files of weights: no code that they bring is run, and what is wrong with them is named before any use."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from nota_cli.errors import CheckpointError, listing
from nota_cli.files import refuse_lfs_pointer
from nota_cli.parsing import decode, parse_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CHUNK = 1 << 22  # values that are looked at one by one where a sum is not finite


def read_torch_file(path: str | Path) -> Any:
    """What a `torch.save` file holds, on the CPU; only tensors and plain values are unpickled.

    Raises:
        CheckpointError: the file is missing, damaged, a Git LFS pointer, or would run code.
    """
    refuse_lfs_pointer(path, error=CheckpointError)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file. Download it or mend the path.") from error
    except Exception as error:  # damaged bytes can raise almost anything while they are unpickled
        # Torch's own advice here is to run the file's code.
        if foreign := re.search(r"Unsupported \w+: \w+ (\S+)", str(error)):
            reason = f"it holds {foreign[1]}, which is neither a tensor nor a plain value; nothing of it was run"
        elif "weights only" in str(error).lower():
            reason = "it holds more than tensors and plain values; nothing of it was run"
        else:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: not a readable file of weights ({reason}). Download it again from its publisher."
        ) from error


def read_safetensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: the file is missing, damaged, or a Git LFS pointer.
    """
    refuse_lfs_pointer(path, error=CheckpointError)
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file. Download it or mend the path.") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(_damaged(path, error)) from error


def open_safetensors(path: str | Path) -> Any:
    """A safetensors file opened as by `safe_open`, for use in a `with`: tensors are read one by one.

    Raises:
        CheckpointError: the file is missing, damaged, or a Git LFS pointer.
    """
    refuse_lfs_pointer(path, error=CheckpointError)
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file. Download it or mend the path.") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(_damaged(path, error)) from error


def tensor_shapes(path: str | Path) -> dict[str, list[int]]:
    """Shape of each tensor in a safetensors file, none of them read.

    Raises:
        CheckpointError: as `open_safetensors`.
    """
    with open_safetensors(path) as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 (it is no dict)


def read_json(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file, such as a model's `config.json`.

    Raises:
        CheckpointError: the file is missing, a Git LFS pointer, or holds something else.
    """
    refuse_lfs_pointer(path, error=CheckpointError)
    try:
        content = parse_json(decode(Path(path).read_bytes()), allow_nan=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file. Download it or mend the path.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable JSON ({error}). Download it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object. Download it again.")
    return content


def quantization_config(folder: Path) -> dict[str, Any] | None:
    """What a folder's `config.json` says of quantized weights; None where nothing, or where there is no such file.

    Raises:
        CheckpointError: as `read_json`; or the entry is no object.
    """
    file = folder / "config.json"
    values = read_json(file).get("quantization_config") if file.is_file() else None
    if values is not None and not isinstance(values, dict):
        raise CheckpointError(f"{file}: its description of the quantization is not an object of keys and values.")
    return values


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a Hugging Face folder: the shards that its index names, or the one that there is.

    Raises:
        CheckpointError: files are missing or Git LFS pointers, or the index and the shards disagree.
    """
    if not (folder / INDEX).is_file():
        others = list(folder.glob("*.safetensors"))  # quantizers have names of their own
        if not (folder / SINGLE).is_file() and len(others) != 1:
            raise CheckpointError(f"{folder / SINGLE}: missing. Download it, or save the model again as safetensors.")
        return [folder / SINGLE] if (folder / SINGLE).is_file() else others
    shards = read_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise CheckpointError(f"{folder / INDEX}: no weight_map, so no index of shards. Download it again.")
    files = [folder / name for name in sorted(set(shards.values()))]
    lost = [file for file in files if not file.is_file()]
    problems = [f"not there: {file.name}" for file in lost]
    for file in filter(Path.is_file, files):
        there = tensor_shapes(file)
        absent = [name for name, shard in shards.items() if shard == file.name and name not in there]
        problems += [f"not in {file.name}: {name}" for name in absent]
        problems += [f"in {file.name} alone: {name}" for name in there if shards.get(name) != file.name]
    if problems:
        what = f"{lost[0]}: missing, though {INDEX} names it" if lost else f"{folder / INDEX}: not what the shards hold"
        raise CheckpointError(f"{what}. Download the folder again:\n{listing(problems)}")
    return files


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite; one pass over the memory, no copy of it."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta or not tensor.numel():
        return True
    if tensor.element_size() == 1:  # 8-bit floats have no arithmetic; they are widened a piece at a time
        return all(is_finite(part.float()) for part in tensor.flatten().split(CHUNK))
    # A value that is not finite makes the sum so. The sum of large finite ones may overflow: only then each is tested.
    if bool(torch.isfinite(tensor.detach().sum())):
        return True
    return all(bool(torch.isfinite(part).all()) for part in tensor.detach().flatten().split(CHUNK))


def refuse_non_finite(source: str | Path, tensors: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
    """Refuse weights that hold NaN or infinity; what is no tensor is passed over.

    Args:
        source: the file, for the message.
        tensors: by their names in it.

    Raises:
        CheckpointError: the message names the file and every such tensor.
    """
    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    broken = [name for name, tensor in pairs if isinstance(tensor, torch.Tensor) and not is_finite(tensor)]
    if broken:
        raise CheckpointError(
            f"{source} holds weights that are NaN or infinite. The training that made them diverged, or the file is "
            f"damaged: take an earlier checkpoint, or download it again.\n{listing(broken)}"
        )


def _damaged(path: str | Path, error: Exception) -> str:
    return f"{path} is damaged, not a whole safetensors file ({error}). Download it again, or make it again."
