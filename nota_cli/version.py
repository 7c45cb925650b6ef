"""The version of the package, and of the libraries that a report's figures depend on."""

import hashlib
import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path

__version__ = "0.1.0"


@cache
def source_hash() -> str:
    """Hexadecimal digits that change with the code of the package, as it does between two versions, too."""
    digest, folder = hashlib.sha256(), Path(__file__).parent
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Versions by name of nota, Python, and those of `packages` that are installed."""
    from importlib.metadata import PackageNotFoundError, version  # takes a while, and most commands need none

    installed = {"nota": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed
