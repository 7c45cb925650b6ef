"""Where a model runs."""

import re

from nota_cli.errors import UsageError
from nota_cli.imports import heavy_imports

NAMES = re.compile(r"auto|(cpu|cuda)(:\d+)?")


def check_device_name(name: str) -> None:
    """Refuse what can be no device; whether it is there, torch knows.

    Raises:
        UsageError: it is none.
    """
    if not NAMES.fullmatch(name):
        raise UsageError(f"--device {name}: not a device; use auto, cpu, cuda or cuda:N")


def pick_device(name: str) -> str:
    """`auto` takes CUDA where there is one.

    Raises:
        UsageError: there is no such device.
    """
    check_device_name(name)
    with heavy_imports():
        import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: torch finds {torch.cuda.device_count()} CUDA devices here; try --device cpu"
        )
    return name
