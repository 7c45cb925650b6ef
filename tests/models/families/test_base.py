"""A family from outside: everything that takes a recipe takes it, through the protocol alone."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import echo_family
from helpers.paths import REPOSITORY
from nota_cli.api import AudioLM
from nota_cli.errors import RecipeError
from nota_cli.recipe.families import FAMILIES
from nota_cli.recipe.load import load_any_recipe, load_recipe


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Path]:
    """A recipe of the family `echo`, registered as long as the test runs."""
    echo_family.register()
    recipe = tmp_path / "echo.yaml"
    recipe.write_text("family: echo\nword: pong\n")
    yield recipe
    del FAMILIES["echo"]


def test_infer_and_score(nota: Callable[..., int], echo: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.csv"
    arguments = ["--annotation", clips / "all.json", "--audio-root", clips, "--out", out]
    assert nota("infer", "--recipe", echo, *arguments, "--set", "word=ding") == 0
    with out.open() as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    assert texts == ["ding 1.2", "ding 1.0", "ding 2.3", "ding 1.7", "ding 3.1"]  # short clips are filled up to 1 s
    assert nota("score", out, "--annotation", clips / "asr.json", "--task", "asr") == 0


def test_efficiency_measures_through_the_familys_runtime(
    nota: Callable[..., int], echo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nota("efficiency", "--recipe", echo, "--rounds", 3, "--tokens", 4, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["runtime"], report["decoding"], report["floor"]) == ("echo", "one word at a time", None)
    assert report["seconds"]["tpot"]["count"] == 3 * 4
    assert "speech_encoder" in report["seconds"]
    assert report["word_mb"] == 0.0
    assert report["memory_mb"]["kv_cache"] == 0.0
    assert nota("efficiency", "--recipe", echo, "--rounds", 3) == 0


def test_chat_transcribe_and_python(
    nota: Callable[..., int], echo: Path, clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = clips / "audio" / "c0.wav"
    assert nota("chat", clip, "--recipe", echo, "--prompt", "how long?") == 0
    assert capsys.readouterr().out == "how long? 1.2\n"
    assert nota("transcribe", clip, "--recipe", echo) == 0
    assert capsys.readouterr().out == "pong 1.2\n"
    assert AudioLM.from_pretrained(echo).caption([clip]) == ["pong 1.2"]


def test_recipes_show_and_download(nota: Callable[..., int], echo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nota("recipes", "show", echo, "--json") == 0
    assert json.loads(capsys.readouterr().out)["parts"][0]["parameters"] == 4
    assert nota("download", echo) == 0


def test_what_is_made_for_salmonn_says_so(echo: Path) -> None:
    assert load_any_recipe(str(echo)).family == "echo"
    with pytest.raises(RecipeError, match="'echo' is of the family echo, and this works on"):
        load_recipe(str(echo))


def test_a_family_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("family: eco\n")
    with pytest.raises(RecipeError, match="there is no model family 'eco'; there are: salmonn, transformers"):
        load_any_recipe(str(tmp_path / "x.yaml"))


def test_a_family_without_torch_runs_without_torch(echo: Path, clips: Path, tmp_path: Path) -> None:
    arguments = ["infer", "--recipe", echo, "--annotation", clips / "asr.json", "--audio-root", clips]
    script = (
        "import sys\nfrom helpers import echo_family\necho_family.register()\n"
        f"sys.argv = ['nota', *{[str(each) for each in [*arguments, '--out', tmp_path / 'o.csv']]!r}]\n"
        "from nota_cli.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code in (0, None), end.code\n"
        "heavy = {'torch', 'transformers', 'peft'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    paths = f"{REPOSITORY}:{REPOSITORY / 'tests'}"
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PATH": "", "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
