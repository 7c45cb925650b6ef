"""The tables of docs/architecture.md: what lies where, who may import whom, and what must start fast."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.paths import REPOSITORY

PACKAGE = REPOSITORY / "nota_cli"
TESTS = REPOSITORY / "tests"
BASE = {"errors", "version", "imports", "cores", "files", "parsing", "paths", "console", "assets", "outputs"}
MAY = {
    "errors": set(),
    "version": set(),
    "imports": set(),
    "cores": set(),
    "parsing": set(),
    "files": {"errors"},
    "paths": {"errors"},
    "console": {"errors"},
    "assets": {"errors"},
    "outputs": {"errors"},
    "recipe": BASE,
    "hub_names": set(),
    "hub_errors": {"errors", "hub_names"},
    "hub": BASE | {"recipe", "hub_names", "hub_errors"},
    "prompts": BASE | {"recipe"},
    "features": BASE,
    "weights": BASE | {"recipe"},
    "quantization": BASE | {"recipe", "weights"},
    "generation": BASE | {"recipe", "prompts"},
    "models": BASE | {"recipe", "hub", "prompts", "features", "weights", "quantization", "generation"},
    "data": BASE | {"recipe", "prompts", "features"},
    "submission": BASE | {"data.annotation"},
    "score": BASE | {"data.annotation", "data.choices", "submission"},
    "inference": BASE | {"recipe", "hub", "features", "generation", "models", "data", "submission"},
    "training": BASE | {"recipe", "prompts", "features", "models", "data", "score", "inference"},
    "checks": BASE | {"features", "data", "score", "submission", "models", "inference"},
    "compression": BASE | {"recipe", "hub", "prompts", "features", "weights", "quantization", "models", "data"},
    "export": BASE | {"recipe", "prompts", "features", "quantization", "generation", "models", "data"},
    "efficiency": BASE | {"recipe", "prompts", "features", "generation", "models", "data", "inference"},
    "leaderboard": BASE,
    "ladder": BASE | {"recipe", "generation", "data", "score", "inference", "efficiency", "leaderboard"},
    "api": BASE | {"recipe", "prompts", "features", "models", "data", "inference"},
    "demo": BASE | {"features", "data", "efficiency", "api"},
    "__init__": {"version", "console", "api"},
}
MAY["cli"] = set(MAY)
MAY["__main__"] = {"cli"}
"""One row a room, in the order of imports."""


def module_name(path: Path) -> str:
    """`models.build` of `nota_cli/models/build.py`; a package is named as its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def statements(node: ast.AST, late: bool) -> Iterator[ast.stmt]:
    """Statements in the order of the file; without `late`, only those that run when the file is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not late:
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test) and not late:
            continue
        if isinstance(child, ast.stmt):
            yield child
        yield from statements(child, late)


def imports(path: Path, late: bool = True) -> set[str]:
    """Every nota_cli module that the file imports, without the package's name."""
    modules = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8")), late):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module is not None and node.module.split(".")[0] == "nota_cli":
                name = node.module.removeprefix("nota_cli").removeprefix(".")
                for alias in node.names:
                    inner = f"{name}.{alias.name}".removeprefix(".")
                    modules.add(inner if inner in MODULES else name or "__init__")
        elif isinstance(node, ast.Import):
            modules |= {alias.name[9:] for alias in node.names if alias.name.startswith("nota_cli.")}
    return modules


def test_every_room_has_one_row() -> None:
    assert {name.split(".")[0] for name in MODULES} == set(MAY)


def test_rooms_import_only_those_above_them() -> None:
    rooms = list(MAY)
    for number, room in enumerate(rooms):
        above = set(rooms[:number])
        assert {allowed.split(".")[0] for allowed in MAY[room]} - {room} <= above, f"{room} may import a room below it"


@pytest.mark.parametrize("name", MODULES)
def test_rooms_import_only_what_they_may(name: str) -> None:
    room = name.split(".")[0]
    for module in imports(MODULES[name]):
        parts = module.split(".")
        ways = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
        assert parts[0] == room or ways & MAY[room], f"{name} imports nota_cli.{module}"


def test_files_do_not_import_each_other_in_circles() -> None:
    left = {name: imports(path, late=False) & set(MODULES) - {name} for name, path in MODULES.items()}
    while free := [name for name, wanted in left.items() if not wanted & set(left)]:
        for name in free:
            del left[name]
    assert not left, f"these files import each other in a circle, or one that does: {sorted(left)}"


def test_architecture_document_lists_every_module_and_no_other() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    chapter = text.partition("## Rooms")[2].partition("## Who may import whom")[0]
    listed = set()
    for section in chapter.split("\n### ")[1:]:
        heading, *lines = section.splitlines()
        folder = heading.strip("`") if heading.startswith("`") else ""
        listed |= {folder + line.split("`")[1] for line in lines if line.startswith("| `")}
    files = {str(path.relative_to(PACKAGE)) for path in MODULES.values() if path.name != "__init__.py"}
    assert listed == files


def test_no_test_file_imports_another() -> None:
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if name.split(".")[-1].startswith("test_")], path


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {str(path): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
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
        "import sys\n"
        f"sys.argv = ['nota', *{[str(csv) if a == 'CSV' else a for a in arguments]!r}]\n"
        "from nota_cli.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code in (0, None), end.code\n"
        "heavy = {'torch', 'transformers', 'pandas', 'numpy', 'matplotlib', 'kaggle', 'requests'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
