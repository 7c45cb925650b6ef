"""Steps of a run: its batches by length resumed exactly."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nota_cli.recipe.load import load_recipe
from nota_cli.training.loop import train


@pytest.mark.parametrize("way", [["train.buckets=3"], ["train.buckets=3", "train.batch_seconds=7"]])
def test_batches_by_length_are_resumed_exactly(way: list[str], tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(tiny_recipe), ["data.validation=[]", "train.accumulation=2", *way])
    train(recipe, tmp_path / "unbroken")
    train(recipe, tmp_path / "cut", stop_after=2)
    train(recipe, tmp_path / "cut", resume=True, stop_after=1)
    train(recipe, tmp_path / "cut", resume=True)
    for name in ("model.safetensors", "decoder/model.safetensors"):
        expected, found = (load_file(tmp_path / run / name) for run in ("unbroken", "cut"))
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
