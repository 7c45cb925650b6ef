"""The version of the package, and of the libraries that a report's figures depend on."""

import platform
from collections.abc import Iterable

__version__ = "0.1.0"


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
