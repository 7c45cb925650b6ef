"""Each guard of a long run, provoked."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nota_cli.errors import CheckpointError, NotaError, RecipeError
from nota_cli.models.build import build
from nota_cli.models.checkpoint import save_checkpoint
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.training import Train
from nota_cli.training.best import Best
from nota_cli.training.loop import train

STATE = Path("trainer") / "state.safetensors"
QUIET = ["data.validation=[]"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "decoder" / "model.safetensors")}


def spoilt(monkeypatch: pytest.MonkeyPatch, calls: set[int], error: Exception | None = None) -> None:
    """The given forward passes lose without end, or raise."""
    forward, count = Salmonn.forward, iter(range(10**6))

    def broken(self: Salmonn, *arguments: object) -> object:
        bad = next(count) in calls
        if bad and error is not None:
            raise error
        loss, encoded = forward(self, *arguments)
        return (loss * float("nan") if bad else loss), encoded

    monkeypatch.setattr(Salmonn, "forward", broken)


@contextmanager
def full_disk(most: int) -> Iterator[None]:
    """Inside, no file can have more than so many bytes."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_step_without_a_finite_loss_is_skipped_and_its_files_are_named(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        spoilt(patch, {2})
        train(load_recipe(str(tiny_recipe), QUIET), tmp_path)
    said = capsys.readouterr().err
    assert "not finite at step 3" in said
    assert ".wav" in said
    assert "1 of at most 3" in said
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path).values())


def test_too_many_such_steps_end_the_run_and_those_before_a_resume_count(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(str(tiny_recipe), [*QUIET, "train.max_skipped_steps=2", "train.save_every=1"])
    spoilt(monkeypatch, {1, 2, 4})
    train(recipe, tmp_path, stop_after=3)
    with pytest.raises(NotaError, match=r"(?s)step 5.*\.wav.*skipped step 3, and train\.max_skipped_steps allows 2"):
        train(recipe, tmp_path, resume=True)


def test_out_of_memory_names_the_batch_and_what_to_set(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt(monkeypatch, {3}, torch.OutOfMemoryError("CUDA out of memory"))
    wanted = r"(?s)batch of 3 clips, \d+ s of audio.*\.wav.*--set train\.batch_size=1 --set train\.accumulation=2"
    with pytest.raises(NotaError, match=wanted):
        train(load_recipe(str(tiny_recipe), QUIET), tmp_path)
    assert (tmp_path / STATE).is_file()


def test_the_first_step_is_told_beside_what_a_guess_costs(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(load_recipe(str(tiny_recipe), QUIET), tmp_path, stop_after=1)
    said = " ".join(capsys.readouterr().err.split())
    assert "step 1: loss 3." in said
    assert "a guess among all tokens costs 3.61" in said
    assert "learning rate 1e-06, gradient norm" in said


def test_a_full_disk_leaves_the_last_state_whole(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(tiny_recipe), [*QUIET, "train.save_every=1"])
    train(recipe, tmp_path, stop_after=2)
    before = (tmp_path / STATE).read_bytes()
    with (
        full_disk(len(before) // 2),
        pytest.raises(NotaError, match="The state saved before is whole: make room there, and --resume"),
    ):
        train(recipe, tmp_path, resume=True)
    assert (tmp_path / STATE).read_bytes() == before
    assert [file.name for file in (tmp_path / "trainer").glob("*.safetensors")] == [STATE.name]
    train(recipe, tmp_path / "unbroken")
    train(recipe, tmp_path, resume=True)
    expected, found = weights(tmp_path / "unbroken"), weights(tmp_path)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_of_a_scheduler_saves_and_ends_resumable(
    number: signal.Signals, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(str(tiny_recipe), [*QUIET, "train.save_every=100"])
    forward, count = Salmonn.forward, iter(range(10**6))

    def signalled(self: Salmonn, *arguments: object) -> object:
        if next(count) == 2:
            os.kill(os.getpid(), number)
        return forward(self, *arguments)

    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(Salmonn, "forward", signalled)
        with pytest.raises(NotaError, match=f"stopped by {number.name} after step 3; .*--resume goes on"):
            train(recipe, tmp_path / "cut")
    assert signal.getsignal(number) is handler
    train(recipe, tmp_path / "cut", resume=True)
    train(recipe, tmp_path / "unbroken")
    expected, found = weights(tmp_path / "unbroken"), weights(tmp_path / "cut")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_earlier_states_stay_as_many_as_asked_for_and_take_the_place_of_a_damaged_one(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(str(tiny_recipe), [*QUIET, "train.save_every=1", "train.keep=3"])
    train(recipe, tmp_path / "run", stop_after=5)
    states = sorted(file.name for file in (tmp_path / "run" / "trainer").glob("*.safetensors"))
    assert states == ["state-000000003.safetensors", "state-000000004.safetensors", "state.safetensors"]
    (tmp_path / "run" / STATE).write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match=r"is damaged.*Rename .*state-000000004"):
        train(recipe, tmp_path / "run", resume=True)
    (tmp_path / "run" / "trainer" / states[1]).replace(tmp_path / "run" / STATE)
    train(recipe, tmp_path / "run", resume=True)
    train(recipe, tmp_path / "unbroken")
    expected, found = weights(tmp_path / "unbroken"), weights(tmp_path / "run")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not list((tmp_path / "run" / "trainer").glob("*.safetensors"))


def test_the_best_checkpoint_by_a_figure_of_the_validation_stays(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([40.0, 20.0, 30.0])
    monkeypatch.setattr("nota_cli.training.loop.validate", lambda model: {"wer": next(figures)})
    recipe = load_recipe(str(tiny_recipe), ["train.validate_every=2", "train.best=wer"])
    train(recipe, tmp_path)
    assert json.loads((tmp_path / "best" / "metrics.json").read_text()) == {"steps": 4, "wer": 20.0}
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"steps": 6, "wer": 30.0}
    assert load_recipe(str(tmp_path / "best")).name == recipe.name
    best, last = weights(tmp_path / "best"), weights(tmp_path)
    assert not all(torch.equal(best[name], tensor) for name, tensor in last.items())


def test_a_figure_that_nothing_gives_is_refused(tiny_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no data\.validation"):
        train(load_recipe(str(tiny_recipe), [*QUIET, "train.best=wer"]), tmp_path)


def test_the_command_says_how_to_go_on(tiny_recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nota_cli.cli", "train", str(tiny_recipe), "--out", str(tmp_path / "run")]
    command += ["--set", "data.validation=[]", "--set", "train.steps=5000", "--set", "train.save_every=5000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if line.startswith("step 1:"):
                break
        run.send_signal(signal.SIGTERM)
        said = run.stderr.read()
    assert run.returncode == 1
    assert "stopped by SIGTERM after step" in said
    assert (tmp_path / "run" / STATE).is_file()


def test_a_disk_that_is_full_at_the_end_leaves_a_state_to_resume_from(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(str(tiny_recipe), [*QUIET, "train.save_every=1"])

    def full(*arguments: Any) -> None:
        with full_disk(50_000):
            save_checkpoint(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("nota_cli.training.loop.save_checkpoint", full)
        with pytest.raises(NotaError, match=r"cannot write the checkpoint .*Make room there.*--resume goes on"):
            train(recipe, tmp_path)
    assert not (tmp_path / "recipe.yaml").exists()
    train(recipe, tmp_path, resume=True)
    assert set(weights(tmp_path))
    assert (tmp_path / "recipe.yaml").exists()


def test_a_full_disk_leaves_the_best_checkpoint_whole(tiny_recipe: Path, tmp_path: Path) -> None:
    """Though its first file still had room."""
    model = build(load_recipe(str(tiny_recipe)))
    best = Best(tmp_path / "best", Train(best="wer"))
    best.offer(model, 1, {"wer": 40.0})
    before = weights(tmp_path / "best")
    sizes = [(tmp_path / "best" / name).stat().st_size for name in ("decoder/model.safetensors", "model.safetensors")]
    assert sizes[0] < sizes[1]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    with full_disk(sum(sizes) // 2), pytest.raises(NotaError, match="cannot write the checkpoint"):
        best.offer(model, 2, {"wer": 20.0})
    assert all(torch.equal(weights(tmp_path / "best")[name], tensor) for name, tensor in before.items())
    assert json.loads((tmp_path / "best" / "metrics.json").read_text()) == {"steps": 1, "wer": 40.0}
    assert [file.name for file in tmp_path.iterdir()] == ["best"]
