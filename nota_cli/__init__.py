"""nota: train, run, score and measure small audio language models."""

from typing import TYPE_CHECKING

from nota_cli.version import __version__

if TYPE_CHECKING:
    from nota_cli.api import AudioLM

__all__ = ["AudioLM", "__version__"]


def __getattr__(name: str) -> object:
    """`AudioLM`, imported when it is first asked for: torch takes seconds, and most commands need none."""
    if name == "AudioLM":
        from nota_cli.console import quiet_libraries

        quiet_libraries()
        from nota_cli.api import AudioLM

        return AudioLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
