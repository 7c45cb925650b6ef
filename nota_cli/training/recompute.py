"""Gradient checkpointing (Chen et al. 2016): layers keep their inputs alone, and are run again in the backward pass."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nota_cli.models.encoders.base import encoder_entry
from nota_cli.models.families.salmonn import Salmonn


def recompute_layers(model: Salmonn) -> int:
    """Have the layers of the decoder and of the encoders that are trained run again in the backward pass.

    What dropout draws is the same both times. Where no gradients are asked for, nothing changes.

    Returns:
        How many layers that are.
    """
    layers = trained_layers(model)
    for layer in layers:
        layer.forward = _recomputed(layer.forward)
    return len(layers)


def trained_layers(model: Salmonn) -> list[nn.Module]:
    """The layers that a training step goes back through: the decoder's, and those of encoders that are trained."""
    layers = list(_decoder_layers(model.decoder.base))
    for spec, encoder in (
        (model.recipe.speech_encoder, model.speech_encoder),
        (model.recipe.audio_encoder, model.audio_encoder),
    ):
        if encoder is not None and spec.train:
            layers += cast(nn.ModuleList, encoder.get_submodule(encoder_entry(spec.kind).layers))
    return layers


def _decoder_layers(base: Any) -> nn.ModuleList:
    """The list of a transformers model's layers, whatever the family calls it."""
    lists = [module for module in base.modules() if isinstance(module, nn.ModuleList)]
    return next(each for each in lists if len(each) == base.config.num_hidden_layers)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **options)
        return checkpoint(forward, *args, use_reentrant=False, **options)

    return run
