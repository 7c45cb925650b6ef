"""What commands import, and when: a mistake is told at once, and a run imports nothing that it has no use for."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource, sys
sys.argv = ["nota", *{arguments!r}]
from nota_cli.cli import main
try:
    main()
except SystemExit as end:
    code = end.code or 0
else:
    code = 0
usage = resource.getrusage(resource.RUSAGE_SELF)
heavy = {{"torch", "transformers", "peft", "gptqmodel", "optimum", "bitsandbytes", "torchao", "pandas", "datasets"}}
loaded = {{name for name, module in sys.modules.items() if name in heavy and module is not None}}
print("\\n" + "|".join([str(code), str(usage.ru_utime + usage.ru_stime), *sorted(loaded)]))
"""


def run(arguments: list[str], folder: Path) -> tuple[int, float, set[str], str]:
    """Exit status, seconds of CPU, heavy packages that were imported, stderr."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(arguments=arguments)], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    code, seconds, *loaded = done.stdout.splitlines()[-1].split("|")
    return int(code), float(seconds), set(loaded), done.stderr


BASELINE = """
import resource, typer, typer.rich_utils, rich.markdown
usage = resource.getrusage(resource.RUSAGE_SELF)
print(usage.ru_utime + usage.ru_stime)
"""


def test_help_takes_a_third_of_a_second_or_little_more_than_its_libraries(tmp_path: Path) -> None:
    """On a slow machine, or one that others work on, the libraries that print help take longer than that alone."""
    seconds, libraries = [], []
    for _ in range(5):  # the best of them
        code, cpu, loaded, _ = run(["--help"], tmp_path)
        assert (code, loaded) == (0, set())
        seconds.append(cpu)
        done = subprocess.run([sys.executable, "-c", BASELINE], capture_output=True, text=True, check=True)
        libraries.append(float(done.stdout))
    assert min(seconds) < max(0.3, 2 * min(libraries))


def test_the_shipped_model_runs_without_what_it_has_no_use_for(tmp_path: Path) -> None:
    code, _, loaded, _ = run(["infer", "--task", "aac", "--limit", "1", "--out", "texts.csv"], tmp_path)
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
    code, _, loaded, stderr = run(["infer", "--task", "aac", *arguments], tmp_path)
    assert code in (1, 2)
    assert message in " ".join(stderr.split())
    assert loaded == set()
