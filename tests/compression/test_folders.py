"""Files of weights copied from one folder into another, and folders that are refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nota_cli.compression.folders import copy_weights, read_recipe, refuse_used
from nota_cli.errors import CheckpointError, UsageError
from nota_cli.weights.files import INDEX, weight_files


def shards(folder: Path) -> Path:
    """Two shards with their index; one of them saved under `torch.compile`."""
    folder.mkdir()
    parts = {
        "a.safetensors": {"_orig_mod.x": torch.ones(2, 3)},
        "b.safetensors": {"y": torch.ones(4), "z": torch.ones(1)},
    }
    for name, tensors in parts.items():
        save_file(tensors, folder / name, {"format": "pt"})
    index = {key: name for name, tensors in parts.items() for key in tensors}
    (folder / INDEX).write_text(
        json.dumps({"metadata": {"total_size": 44, "total_parameters": 11}, "weight_map": index})
    )
    return folder


def test_tensors_are_renamed_changed_and_left_out(tmp_path: Path) -> None:
    source, target = shards(tmp_path / "source"), tmp_path / "target"
    target.mkdir()
    copy_weights(
        weight_files(source),
        target,
        rename=lambda name: {"x": "new", "y": None}.get(name, name),
        change=lambda name, tensor: tensor[:1] if name == "x" else tensor,
    )
    assert {name: list(value.shape) for name, value in load_file(target / "a.safetensors").items()} == {"new": [1, 3]}
    assert list(load_file(target / "b.safetensors")) == ["z"]
    index = json.loads((target / INDEX).read_text())
    assert index == {"metadata": {"total_size": 16}, "weight_map": {"new": "a.safetensors", "z": "b.safetensors"}}
    assert [file.name for file in weight_files(target)] == ["a.safetensors", "b.safetensors"]


def test_a_shard_of_which_nothing_is_left_is_not_written(tmp_path: Path) -> None:
    source, target = shards(tmp_path / "source"), tmp_path / "target"
    target.mkdir()
    copy_weights(weight_files(source), target, rename=lambda name: None if name == "x" else name)
    assert sorted(path.name for path in target.iterdir()) == ["b.safetensors", INDEX]


def test_weights_that_are_not_finite_are_not_copied(tmp_path: Path) -> None:
    save_file({"x": torch.tensor([1.0, float("nan")])}, tmp_path / "gptq_model-4bit.safetensors")
    files = weight_files(tmp_path)  # a quantizer's own name for the only file
    with pytest.raises(CheckpointError, match=r"gptq_model-4bit\.safetensors holds weights that are NaN"):
        copy_weights(files, tmp_path)


def test_only_a_new_or_an_empty_folder_is_written_to(tmp_path: Path) -> None:
    refuse_used(tmp_path / "new")
    refuse_used(tmp_path)
    (tmp_path / "file").write_text("")
    for used in (tmp_path, tmp_path / "file"):
        with pytest.raises(UsageError, match="is there already"):
            refuse_used(used)
    with pytest.raises(CheckpointError, match=r"not a folder with recipe\.yaml and model\.safetensors"):
        read_recipe(tmp_path)
