"""Which number type a model's arithmetic runs in, apart from the one its weights are stored in."""

import os
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nota_cli.console import say
from nota_cli.quantization.wide_compute import HALF, compute_in_float32
from nota_cli.recipe.schema import Decoder, Encoder

if TYPE_CHECKING:
    from nota_cli.models.families.salmonn import Salmonn

FEATURES = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "fp16_arith"),
}
"""What a processor that multiplies the type in hardware calls that, x86 first, then ARM."""
CAPPED = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of oneDNN's ONEDNN_MAX_CPU_ISA below its first instruction set with such products."""


@cache
def multiplies(dtype: torch.dtype) -> bool:
    """Whether this processor has products in `dtype`; torch emulates those that it has not, many times slower.

    The variables that hold torch (ATEN_CPU_CAPABILITY) and oneDNN (ONEDNN_MAX_CPU_ISA) to fewer instructions count.
    """
    if dtype not in HALF:
        return True
    capabilities: Mapping[str, Any] = torch.cpu.get_capabilities()
    if capabilities.get("architecture") == "x86_64" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        return False
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in CAPPED:
        return False
    return any(capabilities.get(name) for name in FEATURES[dtype])


def choose_compute(model: "Salmonn", device: str) -> dict[str, str]:
    """Let each part of a model that only runs compute in what the processor multiplies fast, if `generate.compute` is
    `auto`.

    Returns:
        Part to the type that it computes in and, where that is not the one it is stored in, why.
    """
    auto = model.recipe.generate.compute == "auto" and device == "cpu"
    specs: dict[str, Encoder | Decoder] = {
        "speech_encoder": model.recipe.speech_encoder,
        "audio_encoder": model.recipe.audio_encoder,
        "decoder": model.recipe.decoder,
    }
    choices: dict[str, str] = {}
    for name, spec in specs.items():
        part: nn.Module | None = getattr(model, name)
        if part is None:
            continue
        dtype = getattr(torch, spec.dtype)
        choices[name] = spec.dtype
        if auto and not multiplies(dtype) and compute_in_float32(part):
            choices[name] = f"float32 (stored in {spec.dtype}, which this processor only emulates)"
    for name, choice in choices.items():
        if choice != specs[name].dtype:
            say(f"{name} computes in {choice}")
    return choices
