"""An encoder as a recipe's section asks for it."""

from pathlib import Path

import torch
from torch import nn

from nota_cli.hub import local_path
from nota_cli.models.encoders.base import encoder_entry
from nota_cli.quantization.weight_only import quantize_linears
from nota_cli.recipe.schema import Encoder


def build_encoder(spec: Encoder, device: str, *, dummy: bool, pack: bool) -> nn.Module:
    """From its file, at random from the recipe's `config`, or with dummy weights of its true size.

    Args:
        spec: the recipe's section; its `kind` names the entry (`nota_cli.recipe.encoders`).
        device: where dummy weights are made; others are made on the CPU.
        dummy: random weights, nothing read but a config.
        pack: with `dummy`, quantize as the section says before memory is taken.

    Raises:
        CheckpointError: the file is not there or does not fit.
        RecipeError: the `config` has unknown keys or bad values, or dummy weights of an unknown architecture.
    """
    entry, dtype = encoder_entry(spec.kind), getattr(torch, spec.dtype)
    if not dummy:
        encoder = (
            entry.load(local_path(spec.path), spec)
            if spec.path is not None
            else entry.from_config(spec.config or {}, spec)
        )
        return encoder.to(dtype)
    from nota_cli.models.architectures import architecture
    from nota_cli.quantization.dummy import dummy_init

    if spec.path is not None and Path(spec.path).is_file():  # it tells its own shape
        encoder = entry.load(Path(spec.path), spec).to("meta")
    else:
        values = spec.config if spec.config is not None else architecture(str(spec.path), spec.kind)["config"]
        with torch.device("meta"):
            encoder = entry.from_config(values, spec)
    if pack:
        quantize_linears(encoder, spec.quantization)
    return dummy_init(encoder, device, dtype)
