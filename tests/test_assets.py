"""What ships with nota is found where it is, and nowhere else."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import REPOSITORY

PACKAGE = REPOSITORY / "nota_cli"


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    """An installed package: `assets` inside it, and beside it the folders that other packages install."""
    folder = tmp_path / "site-packages"
    shutil.copytree(PACKAGE, folder / "nota_cli", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PACKAGE.parent / "configs", folder / "nota_cli" / "assets" / "configs")
    for other in ("configs", "data", "checkpoints"):
        (folder / other).mkdir()
    (folder / "configs" / "other.yaml").write_text("base: tiny\n")
    return folder


def run(folder: Path, code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)


def test_an_unrelated_configs_folder_is_not_taken_for_ours(site_packages: Path, tmp_path: Path) -> None:
    code = (
        "from nota_cli.assets import home; from nota_cli.recipe.load import load_recipe, recipe_names\n"
        "print(home()); print('other' in recipe_names(), len(recipe_names()) > 10)\n"
        "print(load_recipe('tiny-stage1').data.train[0].annotation)"
    )
    done = run(site_packages, code, tmp_path)
    home = str(site_packages / "nota_cli" / "assets")
    assert done.stdout.split() == [home, "False", "True", "data/fsdd-train.json"], done.stderr


def test_a_package_without_its_recipes_says_so(site_packages: Path, tmp_path: Path) -> None:
    shutil.rmtree(site_packages / "nota_cli" / "assets")
    shutil.copytree(PACKAGE.parent / "configs", site_packages / "configs", dirs_exist_ok=True)
    code = "from nota_cli.cli import main; import sys; sys.argv = ['nota', 'recipes', 'list']; main()"
    done = run(site_packages, code, tmp_path)
    assert done.returncode == 1
    assert "Install it again" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_clone_is_recognized() -> None:
    done = run(PACKAGE.parent, "from nota_cli.assets import home; print(home())", Path("/"))
    assert done.stdout.strip() == str(PACKAGE.parent)
