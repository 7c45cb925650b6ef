"""Where the recipes and the small model that ship with nota lie, in a clone and in an installed package alike."""

from importlib.resources import files
from pathlib import Path

from nota_cli.errors import NotaError


def home() -> Path:
    """The folder that holds nota's own `configs/` and `checkpoints/`: `assets/` of an installed package, or the clone.

    A `configs` folder that merely lies beside the package, as other packages install one, is not looked at.

    Raises:
        NotaError: neither is there.
    """
    package = Path(str(files("nota_cli")))
    assets = package / "assets"
    if (assets / "configs" / "tiny.yaml").is_file():
        return assets
    clone = package.parent
    # A clone has both; site-packages, whatever else lies there, has no pyproject.toml of nota's.
    if (clone / "configs" / "tiny.yaml").is_file() and _is_of_nota(clone / "pyproject.toml"):
        return clone
    raise NotaError(f"{package} lacks the recipes that ship with nota. Install it again: pip install --force-reinstall")


def _is_of_nota(project: Path) -> bool:
    return project.is_file() and 'name = "nota-cli"' in project.read_text(encoding="utf-8")
