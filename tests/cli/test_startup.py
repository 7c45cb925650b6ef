"""What commands import, and when: a mistake is told at once, and a run imports nothing that it has no use for."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
sys.argv = ["nota", *{arguments!r}]
from nota_cli.cli import main
try:
    main()
except SystemExit as end:
    code = end.code or 0
else:
    code = 0
heavy = {{"torch", "transformers", "peft", "gptqmodel", "optimum", "bitsandbytes", "torchao", "pandas", "datasets"}}
loaded = {{name for name, module in sys.modules.items() if name in heavy and module is not None}}
print("\\n" + "|".join([str(code), *sorted(loaded)]))
"""


def run(arguments: list[str], folder: Path) -> tuple[int, set[str], str]:
    """Exit status, heavy packages that were imported, stderr."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(arguments=arguments)], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    code, *loaded = done.stdout.splitlines()[-1].split("|")
    return int(code), set(loaded), done.stderr


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    """What it costs is measured in benchmarks/startup.py."""
    assert run(["--help"], tmp_path)[:2] == (0, set())


def test_the_shipped_model_runs_without_what_it_has_no_use_for(tmp_path: Path) -> None:
    code, loaded, _ = run(["infer", "--task", "aac", "--limit", "1", "--out", "texts.csv"], tmp_path)
    assert code == 0
    assert loaded == {"torch", "transformers"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--annotation", "nowhere.json"], "cannot read the annotation"),
        (["--annotation", "bad.json"], "bad.json"),
        (["nowhere.wav"], "nowhere.wav"),
        (["--out", "taken.csv"], "taken.csv is there"),
        (["--recipe", "nothing"], "no recipe"),
        (["--on-error", "maybe"], "on-error"),
        (["--device", "gpu"], "--device gpu"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_is_refused_before_torch_is_imported(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[]")
    (tmp_path / "taken.csv").write_text("testset_id,text\nx,a text\n")
    code, loaded, stderr = run(["infer", "--task", "aac", *arguments], tmp_path)
    assert code in (1, 2)
    assert message in " ".join(stderr.split())
    assert loaded == set()


def test_without_torch_one_sentence_names_the_extra(tmp_path: Path) -> None:
    """As in an install of the extra `onnx` alone, where these packages are not there."""
    script = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'peft', 'accelerate', 'optimum', 'gptqmodel'):\n"
        "    sys.modules[name] = None\n"
        f"sys.argv = ['nota', 'infer', '--task', 'aac', '--out', {str(tmp_path / 'texts.csv')!r}]\n"
        "from nota_cli.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "torch is not installed" in done.stderr
    assert "pip install 'nota-cli[torch]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "texts.csv").exists()
