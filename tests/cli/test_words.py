"""Words on the command line: paths with `~`, tasks by other names, shell completion, names whole in tables."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from typer.testing import CliRunner

from helpers.paths import REPOSITORY
from nota_cli.cli.options import expand_paths
from nota_cli.data.corpora.esc10 import ESC10_CAPTIONS
from nota_cli.recipe.load import recipe_names

Run = Callable[..., int]


def test_every_path_of_every_command_is_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    app, inner = typer.Typer(), typer.Typer()

    @app.command()
    def one(file: Path, out: Path | None = None, more: list[Path] = typer.Option([]), text: str = "") -> None:  # noqa: B008
        seen.append([file, out, list(more), text])

    @inner.command()
    def two(file: Path) -> None:
        seen.append(file)

    app.add_typer(inner, name="inner")
    expand_paths(app)
    monkeypatch.setenv("HOME", str(tmp_path))
    runner = CliRunner()
    assert runner.invoke(app, ["one", "~/a", "--out=~/b", "--more=~/c", "--more", "x~", "--text=~/d"]).exit_code == 0
    assert runner.invoke(app, ["inner", "two", "file:///x%20y"]).exit_code == 0
    assert seen[0] == [tmp_path / "a", tmp_path / "b", [tmp_path / "c", Path("x~")], "~/d"]
    assert seen[1] == Path("/x y")


def test_a_flag_of_nota_with_home_in_it(
    nota: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.csv").write_text("testset_id,text\ntest0000,a dog\n")
    (tmp_path / "a.json").write_text('{"annotation": [{"path": "x.wav", "text": "a dog", "task": "asr"}]}')
    flags = ["--annotation=~/a.json", "--task", "ASR", "--details=~/d.csv", "--json"]
    assert nota("score", "~/s.csv", *flags) == 0
    assert json.loads(capsys.readouterr().out)["wer"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "d.csv", "s.csv"]
    assert nota("score", "~nobody-of-this-name/s.csv", *flags) == 2
    assert "no user" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "hint"), [("caption", "did you mean aac"), ("transcription", "did you mean asr"), ("x", "there are asr")]
)
def test_other_words_for_tasks(nota: Run, task: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert nota("score", "s.csv", "--annotation", "a.json", "--task", task) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("nota infer --recipe tin", ["tiny-samples", "tiny-stage1", "tiny-stages", "tiny"]),
        ("nota train salmonn", ["salmonn-13b", "salmonn-3b", "salmonn-7b"]),
        ("nota recipes show my", ["my.yaml", "mydir/"]),
        ("nota infer --task a", ["asr", "aac"]),
        ("nota score x --task q", ["qa"]),
        ("nota infer --checkpoint my", ["my.pth", "mydir/"]),
        ("nota infer --checkpoint mydir/", ["mydir/trained"]),
    ],
)
def test_shell_completion(tmp_path: Path, words: str, expected: list[str]) -> None:
    for name in ("my.yaml", "my.pth", "my.txt", "mydir/trained/recipe.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    line = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1), "_NOTA_COMPLETE": "complete_bash"}
    code = "from nota_cli.cli import app; app(prog_name='nota')"
    environment = os.environ | line | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == expected, done.stderr


@pytest.mark.parametrize("columns", ["80", "200"])
def test_names_are_whole_in_a_pipe(columns: str) -> None:
    environment = os.environ | {"COLUMNS": columns, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "nota_cli.cli", "--quiet", "recipes", "list"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert not done.stderr  # no warning; notes are left out by --quiet
    for name in recipe_names():
        assert len(re.findall(rf"│ {re.escape(name)} ", done.stdout)) == 1
    assert "?" not in done.stdout


def test_names_are_whole_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, nota: Run, capsys) -> None:
    from nota_cli import console

    monkeypatch.setattr(console.out, "_force_terminal", True)
    monkeypatch.setattr(console.out, "_width", 80)
    assert nota("recipes", "list") == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 80
    for name in recipe_names():
        assert any(line.startswith(f"│ {name} ") for line in lines)


def test_prepared_corpora_are_trained_on_outside_a_clone(
    nota: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`prepare --out data`, then `train tiny-stage1`, both in a folder of the user's own."""
    from nota_cli.recipe import load

    monkeypatch.chdir(tmp_path)
    # As in an installed package: no corpora lie beside the recipes.
    home = tmp_path / "package"
    (home / "checkpoints").mkdir(parents=True)
    for part in ("configs", "checkpoints/tiny"):
        (home / part).symlink_to(load.home() / part)
    monkeypatch.setattr(load, "home", lambda: home)
    names = [f"fsdd/{digit}_{who}_{take}.wav" for digit in range(10) for who in ("ann", "bob") for take in range(4)]
    names += [f"esc10/{label}/{fold}-{label}-A.wav" for label in ESC10_CAPTIONS for fold in (1, 2)]
    for name in names:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "data" / name, np.full(2_400, 0.1), 8_000)
    assert nota("prepare", "fsdd", "data/fsdd", "--out", "data", "--hold-out", "2-3") == 0
    assert nota("prepare", "esc10", "data/esc10", "--out", "data", "--hold-out-fold", 2) == 0
    flags = [f"train.{key}" for key in ("steps=1", "batch_size=2", "warmup_steps=0")] + ["data.validation=[]"]
    capsys.readouterr()
    assert nota("train", "tiny-stage1", "--out", "made", *(word for flag in flags for word in ("--set", flag))) == 0
    assert "trained without data/synth" in capsys.readouterr().err
    assert (tmp_path / "made" / "recipe.yaml").is_file()
