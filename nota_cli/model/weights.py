"""Reading a file of weights without ever running code that it brings."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from nota_cli.errors import CheckpointError
from nota_cli.parsing import decode, parse_json


def read_torch_file(path: str | Path) -> Any:
    """What a `torch.save` file holds, on the CPU; only tensors and plain values are unpickled.

    Raises:
        CheckpointError: the file is missing, damaged, or would run code.
    """
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
        CheckpointError: the file is missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file. Download it or mend the path.") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error}). Download it again.") from error


def read_json(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file, such as a model's `config.json`.

    Raises:
        CheckpointError: the file is missing, or holds something else.
    """
    try:
        content = parse_json(decode(Path(path).read_bytes()), allow_nan=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file. Download it or mend the path.") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not readable JSON ({error}). Download it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object. Download it again.")
    return content


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a Hugging Face folder: one, or the shards that its index names.

    Raises:
        CheckpointError: a file is missing, or the index is damaged.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{index}: not an index of safetensors shards. Download it again.") from error
        files = [folder / name for name in sorted(names)]
    else:
        files = [folder / "model.safetensors"]
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file}: missing. Download it, or save the model again as safetensors.")
    return files
