"""A quantizer from outside, in one file: it stores plain weights and holds them in 8 bits once they are loaded."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from nota_cli.quantization.base import Quantizer
from nota_cli.quantization.weight_only import PackedLinear, quantize_linears
from nota_cli.recipe.quantizers import QUANTIZERS, QuantizerKind


def _load(folder: Path, dtype: torch.dtype, device: str, *, kernel: str, key_mapping: dict[str, str] | None) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, key_mapping=key_mapping)
    quantize_linears(model.model, "int8")
    return model.to(device).eval()


def _replace_linears(model: Any, dtype: torch.dtype, device: str, kernel: str, packing: dict[str, Any]) -> None:
    quantize_linears(model.model, "int8")


QUANTIZER = Quantizer(
    load=_load,
    kernel_name=lambda model: "rounding",
    stored_packing=lambda folder, published: {},
    replace_linears=_replace_linears,
    is_layer=lambda module: False,  # its layers are `PackedLinear`, which dummies fill by themselves
    fill=lambda layer, numbers, std: None,
    finish=lambda model, dtype: None,
)


def register() -> None:
    """The line in the registry."""
    QUANTIZERS["rounding"] = QuantizerKind("helpers.rounding_quantizer", "8-bit rounding")


def count_packed(model: Any) -> int:
    """How many layers it holds."""
    return sum(isinstance(module, PackedLinear) for module in model.modules())
