"""Checkpoints quantized as a whole: adapters merged first, calibrated on the clips or on their texts alone."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.networks import load_network
from helpers.prompts import logits
from nota_cli.compression.gptq_checkpoint import Calibration, quantize_checkpoint
from nota_cli.errors import RecipeError
from nota_cli.models.build import build
from nota_cli.models.inference_lora import merge_lora
from nota_cli.recipe.load import load_recipe, salmonn_recipe
from nota_cli.recipe.schema import Recipe

GROUP = 16


@pytest.fixture(scope="module")
def adapted(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A recipe whose checkpoint has adapters that change what it says."""
    torch.manual_seed(5)
    recipe = load_recipe(
        str(tiny_recipe),
        ["lora.rank=4", "lora.alpha=16", "decoder.dtype=bfloat16", "decoder.config.tie_word_embeddings=true"],
    )
    model = build(recipe)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += (0.2 if "lora_" in name else 0.05) * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("adapted") / "in"
    model.save_pretrained(folder)
    return salmonn_recipe(load_recipe(str(folder)).model_copy(update={"checkpoint": str(folder), "data": recipe.data}))


@pytest.mark.parametrize("calibration", ["audio", "text"])
def test_adapters_are_merged_and_the_answers_stay_near(
    calibration: Calibration, adapted: Recipe, tmp_path: Path
) -> None:
    report = quantize_checkpoint(adapted, tmp_path / "q", bits=8, group_size=GROUP, clips=16, calibration=calibration)
    assert report.error < 0.02
    assert not (tmp_path / "q" / "adapter").exists()
    stored = load_file(tmp_path / "q" / "decoder" / "model.safetensors")
    assert stored["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert "lm_head.weight" not in stored  # it is the embedding, and stored once
    assert any(name.endswith("qweight") for name in stored)
    merged = load_network(str(adapted.checkpoint))
    plain = logits(merged)
    merge_lora(merged)
    quantized = load_network(str(tmp_path / "q"))
    distance = float((logits(quantized).float() - plain.float()).norm() / plain.float().norm())
    assert distance < 0.1


def test_what_cannot_be_quantized_is_refused(adapted: Recipe, tmp_path: Path) -> None:
    without = adapted.model_copy(update={"data": adapted.data.model_copy(update={"train": []})})
    with pytest.raises(RecipeError, match="calibration needs audio"):
        quantize_checkpoint(without, tmp_path / "q")
    packed = adapted.model_copy(update={"decoder": adapted.decoder.model_copy(update={"quantization": "gptq"})})
    with pytest.raises(RecipeError, match="full-precision"):
        quantize_checkpoint(packed, tmp_path / "q")
    assert json.dumps([str(path) for path in tmp_path.iterdir()]) == "[]"


def test_the_recipe_s_own_calibration_data_is_what_counts(adapted: Recipe, tmp_path: Path) -> None:
    """What it trains on is not looked at then."""
    absent = adapted.data.train[0].model_copy(update={"annotation": str(tmp_path / "absent.json")})
    data = adapted.data.model_copy(update={"train": [absent], "calibration": adapted.data.train})
    recipe = adapted.model_copy(update={"data": data})
    quantize_checkpoint(recipe, tmp_path / "own", bits=8, group_size=GROUP, clips=16)
    quantize_checkpoint(adapted, tmp_path / "train", bits=8, group_size=GROUP, clips=16)
    own, train = (load_file(tmp_path / name / "decoder" / "model.safetensors") for name in ("own", "train"))
    assert all(torch.equal(own[name], value) for name, value in train.items())


def test_an_optional_source_that_is_not_there_is_left_out(adapted: Recipe, tmp_path: Path) -> None:
    absent = adapted.data.train[0].model_copy(update={"annotation": str(tmp_path / "absent.json"), "optional": True})
    data = adapted.data.model_copy(update={"train": [*adapted.data.train, absent]})
    report = quantize_checkpoint(
        adapted.model_copy(update={"data": data}), tmp_path / "q", bits=8, group_size=GROUP, clips=16
    )
    assert report.layers
