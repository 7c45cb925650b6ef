"""Importing torch and what stands on it, which takes most of a short command's time."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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


def leave_out_torchao() -> None:
    """For a process of the command line's own: keep transformers from importing torchao, which nota does not use.

    gptqmodel requires it to be installed, and transformers imports it with its quantizers wherever it is.
    """
    sys.modules.setdefault("torchao", None)  # type: ignore[arg-type]  # Python's way to say that it is not there
