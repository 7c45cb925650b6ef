"""Where a model runs."""

from nota_cli.errors import UsageError
from nota_cli.imports import heavy_imports


def pick_device(name: str) -> str:
    """`auto` takes CUDA where there is one.

    Raises:
        UsageError: the device is not there.
    """
    with heavy_imports():
        import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: not a device; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: torch finds {torch.cuda.device_count()} CUDA devices here; try --device cpu"
        )
    return name
