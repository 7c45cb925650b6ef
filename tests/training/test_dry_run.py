"""A dry run builds at full size, takes two steps, and leaves nothing behind."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nota_cli.efficiency.memory import meter
from nota_cli.recipe.load import load_recipe
from nota_cli.training.dry_run import dry_run
from nota_cli.training.loop import train

Nota = Callable[..., int]


def test_figures_are_those_of_the_run(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(str(tiny_recipe), ["train.save_every=2", "train.keep=2", "data.validation=[]"])
    monkeypatch.chdir(tmp_path)
    done = dry_run(recipe, meter)
    assert not list(tmp_path.iterdir())
    assert not done.noise
    assert done.finite
    assert (done.clips, done.steps, len(done.seconds)) == (3, 6, 2)
    train(recipe, tmp_path / "run", stop_after=2)
    state = (tmp_path / "run" / "trainer" / "state.safetensors").stat().st_size
    assert done.disk["state while training"] == pytest.approx(3 * state, rel=0.05)
    trained = done.memory["gradients"]
    assert done.memory["optimizer"] == pytest.approx(2 * trained, rel=0.01)
    assert done.memory["averaged weights"] == trained
    train(recipe, tmp_path / "run", resume=True)
    files = [file for file in (tmp_path / "run").rglob("*.safetensors") if "trainer" not in file.parts]
    assert done.disk["checkpoint"] == pytest.approx(sum(file.stat().st_size for file in files), rel=0.05)
    assert done.before is not None
    assert done.peak is not None
    assert done.peak >= done.before + trained


def test_published_weights_and_data_need_not_be_there(
    tiny_recipe: Path, tmp_path: Path, nota: Nota, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gone = "data.train=[{annotation: none.json, audio_root: none}]"
    settings = [gone, "train.init=none", "audio.max_seconds=1", "train.batch_size=2", "train.autocast=false"]
    assert nota("train", "tiny", "--dry-run", *(word for each in settings for word in ("--set", each))) == 0
    output = capsys.readouterr()
    text = output.out + output.err
    for line in ("parameters: speech encoder", "gradients", "optimizer", "peak (resident set", "disk: checkpoint"):
        assert line in text
    assert "all 600 steps of 2 clips" in text
    assert "noise stood in" in text
    assert not list(tmp_path.iterdir())
    assert nota("train", tiny_recipe, "--dry-run", "--resume") == 2
