"""An encoder from outside: recipes, building, dummy weights, training's gradients, inference and pruning take it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from helpers import band_encoder
from helpers.networks import load_network
from nota_cli.compression.layers import layer_counts, prune_layers
from nota_cli.errors import RecipeError
from nota_cli.models.build import build
from nota_cli.recipe.encoders import ENCODERS
from nota_cli.recipe.importer import import_config
from nota_cli.recipe.load import load_recipe


@pytest.fixture
def system(tiny_recipe: Path, tmp_path: Path) -> Iterator[Path]:
    """The tiny system with the encoder in the place of BEATs, from its published file."""
    band_encoder.register()
    torch.manual_seed(0)
    weights = tmp_path / "bands.safetensors"
    save_file(band_encoder.BandEncoder(band_encoder.BandConfig(8, 3)).state_dict(), weights)
    recipe = yaml.safe_load(tiny_recipe.read_text())
    recipe["audio_encoder"] = {"kind": "bands", "path": str(weights)}
    (tmp_path / "system.yaml").write_text(yaml.safe_dump(recipe))
    yield tmp_path / "system.yaml"
    del ENCODERS["bands"]


def test_inference(nota: Callable[..., int], system: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.csv"
    arguments = ["--annotation", clips / "all.json", "--audio-root", clips, "--out", out, "--workers", 1]
    assert nota("infer", "--recipe", system, *arguments) == 0
    assert len(out.read_text().splitlines()) == 6


def test_dummy_weights_have_the_published_files_shape(system: Path) -> None:
    model = build(load_recipe(str(system)), load_format="dummy")
    assert [tuple(layer.weight.shape) for layer in model.audio_encoder.stack] == [(8, 8)] * 3
    assert {part.name for part in model.parts()} >= {"audio_encoder", "connector"}


def test_training_reaches_it(system: Path) -> None:
    model = build(load_recipe(str(system), ["audio_encoder.train=true"]), purpose="train")
    assert all(parameter.requires_grad for parameter in model.audio_encoder.parameters())


def test_pruning_its_layers(system: Path, tmp_path: Path) -> None:
    model = build(load_recipe(str(system)))
    model.save_pretrained(tmp_path / "whole")
    assert layer_counts(tmp_path / "whole")["audio_encoder"] == 3
    prune_layers(tmp_path / "whole", tmp_path / "small", {"audio_encoder": [0, 2]})
    small = load_network(tmp_path / "small").audio_encoder
    assert len(small.stack) == 2
    assert torch.equal(small.stack[1].weight, model.audio_encoder.stack[2].weight)


def test_other_systems_configs_may_name_it(system: Path, tmp_path: Path) -> None:
    config = {"model": {"whisper_path": "w", "beats_path": "my_bands.pt", "llama_path": "l"}, "datasets": {}, "run": {}}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    assert import_config(tmp_path / "config.yaml").values["audio_encoder"]["kind"] == "bands"


def test_a_kind_that_is_not_there(tiny_recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"audio_encoder.kind: Input should be 'beats', 'ced', 'eat' or 'none'"):
        load_recipe(str(tiny_recipe), ["audio_encoder.kind=bands"])
