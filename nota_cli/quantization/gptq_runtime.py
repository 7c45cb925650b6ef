"""Living with gptqmodel: importing it quietly and late (it takes seconds), and finding its layers in a model."""

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from torch import nn

from nota_cli.errors import UsageError


def silence_gptqmodel() -> None:
    """Stop gptqmodel from writing to stdout, where results go: its banner, and the log it keeps through `logbar`.

    Cheap: gptqmodel itself is not imported. Call it before anything that may import gptqmodel, which peft does for
    every LoRA. What goes wrong in gptqmodel still arrives as an exception.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # making the shared logger prints an empty line
        from logbar import LogBar

        LogBar.shared().setLevel(logging.CRITICAL + 1)


def import_gptqmodel() -> None:
    """Import gptqmodel quietly.

    Raises:
        UsageError: it or something it needs is not installed.
    """
    silence_gptqmodel()
    try:
        with quietly():
            import gptqmodel  # noqa: F401
    except ImportError as error:
        raise UsageError(f"GPTQ needs gptqmodel, which does not import here: {error}. Reinstall nota-cli.") from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """No prints, warnings or log lines below critical.

    For imports and loading alone, whose results are checked: torchao complains about CUDA files, and optimum touches
    every deprecated property of the model.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def quantized_layers(model: nn.Module) -> dict[str, Any]:
    """The gptqmodel layers of `model` by name."""
    if "gptqmodel" not in sys.modules:
        return {}
    import_gptqmodel()
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear

    return {name: module for name, module in model.named_modules() if isinstance(module, BaseQuantLinear)}


def exact_scales(module: Any) -> None:
    """Let the torch kernel multiply codes by scales in float32, where the file's half-precision scales are exact.

    Otherwise it multiplies in half precision, and every weight is off by up to 0.05%.
    """
    if short_name(module.backend) == "torch":
        module.scales = module.scales.float()
        if module.bias is not None:
            module.bias = module.bias.float()


def short_name(backend: Any) -> str:
    """gptqmodel's name of a kernel without the prefix that all for GPTQ share."""
    return str(backend.value).removeprefix("gptq_")


def is_gptq_layer(module: nn.Module) -> bool:
    """Whether it is a gptqmodel layer; asks without importing gptqmodel, which takes seconds."""
    return "qweight" in module._buffers
