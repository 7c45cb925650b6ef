"""Importing torch and what stands on it, which takes most of a short command's time."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TORCH_STACK = {"torch", "transformers", "peft", "accelerate", "optimum", "gptqmodel", "sentencepiece"}
"""What the extra `torch` brings: all that trains models, runs them from their weights, and changes them."""


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Inside, modules are imported without garbage collections; afterwards collections pass over what they made.

    Modules live as long as the process, so that collecting among their hundreds of thousands of objects finds nothing,
    and takes a quarter of a short run. Where torch is there already, nothing is changed.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def missing_torch(error: ModuleNotFoundError) -> str | None:
    """What to tell the user of a module that is not there, if it is one of the extra `torch`; None of others."""
    package = (error.name or "").split(".")[0]
    if package not in TORCH_STACK:
        return None
    return (
        f"{package} is not installed; this needs it: pip install 'nota-cli[torch]' (in a clone: pip install "
        "'.[torch]'). What `nota export` wrote runs without."
    )


def leave_out_torchao() -> None:
    """For a process of the command line's own: keep transformers from importing torchao, which nota does not use.

    gptqmodel requires it to be installed, and transformers imports it with its quantizers wherever it is.
    """
    sys.modules.setdefault("torchao", None)  # type: ignore[arg-type]  # Python's way to say that it is not there
