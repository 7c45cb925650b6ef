"""A quantizer from outside: recipes, loading, dummy weights, sizes by part and the line on stderr take it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from helpers import rounding_quantizer
from nota_cli.errors import RecipeError
from nota_cli.models.build import build
from nota_cli.models.loading import load
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.quantizers import QUANTIZERS


@pytest.fixture
def settings(tiny_recipe: Path, tmp_path: Path) -> Iterator[list[str]]:
    """What changes the tiny recipe so that its decoder is read from a folder, and held by the quantizer."""
    rounding_quantizer.register()
    decoder = build(load_recipe(str(tiny_recipe))).decoder
    decoder.base.save_pretrained(tmp_path / "decoder")
    decoder.tokenizer.save_pretrained(tmp_path / "decoder")
    yield [f"decoder={{path: {tmp_path / 'decoder'}, config: null, train: false, quantization: rounding}}"]
    del QUANTIZERS["rounding"]


def test_loading(tiny_recipe: Path, settings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    plain = build(load_recipe(str(tiny_recipe), [settings[0].replace("rounding", "none")]))
    model = load(load_recipe(str(tiny_recipe), settings), "cpu")
    assert rounding_quantizer.count_packed(model.decoder) == 14
    assert "8-bit rounding decoder on the rounding kernel" in capsys.readouterr().err
    ids = torch.arange(1, 9)[None]
    with torch.inference_mode():
        own, expected = model.decoder.base(ids).logits, plain.decoder.base(ids).logits
    assert 0 < (own - expected).norm() / expected.norm() < 0.05


def test_dummy_weights(tiny_recipe: Path, settings: list[str]) -> None:
    model = build(load_recipe(str(tiny_recipe), settings), load_format="dummy")
    assert rounding_quantizer.count_packed(model.decoder) == 14
    assert "8-bit" in {kind for part in model.parts() if part.name == "decoder" for kind in part.by_type}


def test_what_it_has_no_kernels_for(tiny_recipe: Path, settings: list[str]) -> None:
    with pytest.raises(RecipeError, match="`kernel` is of GPTQ alone, and quantization is rounding"):
        load_recipe(str(tiny_recipe), [*settings, "decoder.kernel=triton"])


def test_a_name_that_is_not_there(tiny_recipe: Path) -> None:
    with pytest.raises(RecipeError, match="decoder.quantization: Input should be 'none', 'gptq' or 'nf4'"):
        load_recipe(str(tiny_recipe), ["decoder.quantization=rounding"])
