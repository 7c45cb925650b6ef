"""Tensors by name in a folder of safetensors files, each with a checksum over the names and bytes of its tensors."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nota_cli.console import warn
from nota_cli.errors import NotaError
from nota_cli.files import atomic_path

SHARD_BYTES = 64 * 2**20


class Shards:
    """What lies in a folder; `scan` first.

    Args:
        folder: of the files.
        setting: the value of a recipe that names it, for messages.
        content: what is made again where a file is damaged, for messages.
    """

    def __init__(self, folder: Path, setting: str, content: str) -> None:
        self.folder, self.setting, self.content = folder, setting, content
        self.files: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}

    def scan(self, *, remove: bool = False) -> None:
        """See what lies in the folder; every file is read and held against its checksum once.

        Args:
            remove: delete files that are damaged.
        """
        self.files, self._open = {}, {}
        for file in sorted(self.folder.glob("*.safetensors")):
            try:
                names = _verified(file)
            except (SafetensorError, OSError, ValueError, KeyError, TypeError):
                warn(f"{file} is damaged; {self.content}")
                if remove:
                    file.unlink(missing_ok=True)
                continue
            self.files |= dict.fromkeys(names, file)

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def __getitem__(self, name: str) -> Tensor:
        file = self.files[name]
        if file not in self._open:
            self._open[file] = safe_open(file, framework="pt")
        tensor: Tensor = self._open[file].get_tensor(name)
        return tensor

    def write(self, tensors: dict[str, Tensor]) -> None:
        """Put tensors into a file of their own.

        Raises:
            NotaError: there is no room.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="states-", suffix=".safetensors", dir=self.folder)
        os.close(handle)
        file = Path(name)
        try:
            with atomic_path(file) as part:
                save_file(tensors, part, metadata={"nota": json.dumps({"sha256": _checksum(tensors)})})
        except SafetensorError as error:
            raise NotaError(
                f"cannot write {file}: {error}. Make room there, or choose another {self.setting}."
            ) from error
        finally:
            if not file.stat().st_size:
                file.unlink()


def tensor_bytes(tensor: Tensor) -> Any:
    """What a tensor's numbers are made of."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def _verified(file: Path) -> set[str]:
    """Names of a file's tensors, once these are what was written.

    Raises:
        ValueError: they are not. SafetensorError, KeyError, TypeError: the file is no such file.
    """
    with safe_open(file, framework="pt") as opened:
        stated = json.loads(opened.metadata()["nota"])["sha256"]
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
    if _checksum(tensors) != stated:
        raise ValueError(f"{file}: the checksum does not fit")
    return set(tensors)


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    digest_tensors(digest, tensors)
    return digest.hexdigest()


def digest_tensors(digest: Any, tensors: dict[str, Tensor]) -> None:
    """Add names, types, shapes and bytes of tensors, in the order of their names, to a digest of `hashlib`."""
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor_bytes(tensor))
