"""The table of docs/architecture.md: who may import whom, and what must start fast."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "nota_cli"
BASE = {"errors", "files", "parsing", "paths", "console", "assets", "outputs", ""}
MAY = {
    "errors": set(),
    "files": {"errors"},
    "parsing": set(),
    "paths": {"errors"},
    "assets": {"errors"},
    "console": {"errors"},
    "outputs": {"errors"},
    "recipe": BASE | {"recipe"},
    "prompts": BASE | {"recipe"},
    "hub": BASE | {"recipe"},
    "data": BASE | {"recipe", "prompts", "data"},
    "model": BASE | {"recipe", "hub", "prompts", "model", "compress", "data.features", "data.inputs"},
    "compress": BASE | {"recipe", "hub", "prompts", "model", "compress", "data.features", "data.inputs"},
    "inference": BASE | {"recipe", "hub", "prompts", "data", "model", "inference", "long_audio", "submission"},
    "efficiency": BASE | {"recipe", "prompts", "data", "model", "compress", "inference", "efficiency"},
    "training": BASE | {"recipe", "prompts", "data", "model", "training", "inference", "score"},
    "score": BASE | {"data.annotation", "score", "submission"},
    "compare": BASE | {"compare_runs"},
    "compare_runs": BASE,
    "compare_plot": BASE | {"compare"},
    "submit": BASE,
    "long_audio": BASE,
    "api": BASE | {"recipe", "prompts", "data", "model", "compress", "inference", "long_audio"},
    "submission": BASE | {"data.annotation", "submission"},
}


def imports(path: Path) -> set[str]:
    """Every nota_cli module that the file imports, late imports included, without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("nota_cli"):
            found.add(node.module.removeprefix("nota_cli").lstrip("."))
        elif isinstance(node, ast.Import):
            found |= {name.name.removeprefix("nota_cli.") for name in node.names if name.name.startswith("nota_cli.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_only_what_they_may(path: Path) -> None:
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if room in {
        "cli",
        "cli_chat",
        "cli_completion",
        "cli_options",
        "cli_systems",
        "cli_compress",
        "cli_leaderboard",
        "cli_listen",
        "cli_submission",
        "commands",
        "commands_compress",
        "commands_infer",
        "commands_recipes",
        "guards",
        "process",
        "__init__",
    }:
        return
    allowed = MAY[room]
    for module in imports(path):
        assert module in allowed or module.split(".")[0] in allowed, f"{path.name} imports nota_cli.{module}"


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {name: length for name, length in lengths.items() if length > 400}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["infer", "--help"],
        ["chat", "--help"],
        ["validate-submission", "CSV"],
        ["compare", "--help"],
        ["compare"],
        ["submit", "--help"],
        ["submit", "CSV", "--competition", "boost-asr", "-m", "first try", "--dry-run"],
    ],
    ids=" ".join,
)
def test_commands_that_must_start_fast_import_no_torch(arguments: list[str], tmp_path: Path) -> None:
    csv = tmp_path / "good.csv"
    csv.write_text("testset_id,text\ntest0000,a dog barks\n")
    script = (
        "import resource, sys\n"
        f"sys.argv = ['nota', *{[str(csv) if a == 'CSV' else a for a in arguments]!r}]\n"
        "from nota_cli.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code in (0, None), end.code\n"
        "heavy = {'torch', 'transformers', 'pandas', 'numpy', 'matplotlib', 'kaggle', 'requests'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "usage = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print('CPU', usage.ru_utime + usage.ru_stime, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
