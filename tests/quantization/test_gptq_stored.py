"""GPTQ layers and adapters that only run, loaded without gptqmodel and PEFT: the same numbers as with them."""

import pytest
import torch
from torch import Tensor

from nota_cli.models.build import build
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.models.inference_lora import InferenceLora, LoraNames, prepare_to_run
from nota_cli.quantization.gptq import count_quantized, load_gptq_decoder
from nota_cli.quantization.weight_only import repack_gptq
from nota_cli.recipe.load import load_recipe

PEFT_PREFIX = "base_model.model."


def built(settings: list[str], lean: bool) -> Salmonn:
    if lean:
        return build(load_recipe("tiny", settings), purpose="run")
    model = build(load_recipe("tiny", settings))
    prepare_to_run(model)
    return model


def tensors(model: Salmonn) -> dict[str, Tensor]:
    """Parameters and buffers, also those that no state dict has, by their names without PEFT's prefix."""
    decoder = model.decoder.model
    named = [*decoder.named_parameters(), *decoder.named_buffers()]
    return {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in named}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_lean_model_holds_the_same_numbers(dtype: str) -> None:
    settings = [f"decoder.dtype={dtype}", "generate.compute=stored"]
    full, lean = built(settings, False), built(settings, True)
    assert lean.decoder.kernel == full.decoder.kernel
    assert count_quantized(lean.decoder.model) == count_quantized(full.decoder.model)
    assert sum(isinstance(module, InferenceLora) for module in lean.decoder.modules()) == 6
    expected, own = tensors(full), tensors(lean)
    assert own.keys() == expected.keys()
    assert [name for name in own if not torch.equal(own[name], expected[name])] == []
    ids = torch.arange(1, 41).reshape(2, 20)
    with torch.inference_mode():
        assert torch.equal(lean.decoder.base(ids).logits, full.decoder.base(ids).logits)


def test_stored_layers_compute_what_gptqmodel_does() -> None:
    folder = load_recipe("tiny").decoder.path
    assert folder is not None
    stored, loaded = load_gptq_decoder(folder, stored=True), load_gptq_decoder(folder)
    ids = torch.arange(1, 41).reshape(2, 20)
    with torch.inference_mode():
        assert torch.equal(stored(ids).logits, loaded(ids).logits)
    assert repack_gptq(stored, "blockwise") == repack_gptq(loaded, "blockwise") == 21


@pytest.mark.parametrize(
    "setting", ["generate.decoding=plain", "lora={rank: 8, alpha: 24}", "lora={rank: 8, alpha: 32, targets: [head]}"]
)
def test_adapters_that_need_peft_get_it(setting: str) -> None:
    recipe = load_recipe("tiny", [setting, "checkpoint=null"])
    if "head" in setting:
        with pytest.raises(Exception, match="lora.targets"):
            build(recipe, purpose="run")
    else:
        assert not isinstance(build(recipe, purpose="run").decoder.model, LoraNames)
