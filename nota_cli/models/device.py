"""Where a model runs."""

import re

from nota_cli.errors import UsageError
from nota_cli.imports import heavy_imports
from nota_cli.recipe.families import family_of
from nota_cli.recipe.schema import BaseRecipe

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


def gpu_name(device: str) -> str | None:
    """What a CUDA device is called; None for a CPU, for which torch is not imported."""
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.get_device_name(device)


def device_for(recipe: BaseRecipe, name: str) -> str:
    """`pick_device` for a recipe's family: one that needs no torch runs on the CPU, and torch is not asked.

    Raises:
        UsageError: there is no such device, or the family cannot use it.
    """
    if family_of(recipe.family).runs_on_torch:
        return pick_device(name)
    check_device_name(name)
    if name.startswith("cuda"):
        raise UsageError(f"--device {name}: recipe {recipe.name} runs on the CPU alone; leave it out")
    return "cpu"
