"""Where the recipes and the small model that ship with nota lie, in a source tree and in an installed package alike."""

from pathlib import Path


def home() -> Path:
    """The folder that holds `configs/` and `checkpoints/`."""
    package = Path(__file__).resolve().parent
    source_tree = package.parent
    return source_tree if (source_tree / "configs").is_dir() else package / "assets"
