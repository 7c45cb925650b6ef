"""What a quantizer's file says about it, so that loading decoders and making dummies of them need no other file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nota_cli.recipe.quantizers import QUANTIZERS


class RandomNumbers(Protocol):
    """Where the numbers of dummy weights come from (`nota_cli.quantization.dummy`)."""

    device: torch.device

    def bits(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Integers of any type and of this shape, every bit random."""

    def near(self, value: float, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Positive numbers around `value`, of this shape."""


class Load(Protocol):
    """Loads a folder of a decoder; it comes in evaluation mode."""

    def __call__(
        self, folder: Path, dtype: torch.dtype, device: str, *, kernel: str, key_mapping: dict[str, str] | None
    ) -> Any:
        """A transformers model.

        Args:
            folder: config.json and safetensors.
            dtype: of what is not quantized, and of the arithmetic.
            device: where to put it.
            kernel: the recipe's `decoder.kernel`, or `auto_trainable` for `auto` where it is to be trained through.
            key_mapping: as transformers' own.

        Raises:
            CheckpointError: it is not of this kind, or not whole.
            RecipeError: the kernel does not exist, or not for this.
        """


@dataclass(frozen=True)
class Quantizer:
    """One way to hold a decoder's linear layers in few bits.

    Attributes:
        load: from a folder.
        kernel_name: of a loaded model, what multiplies its weights.
        stored_packing: bits, groups and the like that a folder of it has, or else the `quantization_config` of a
            published model; they are `replace_linears`' last argument.
        replace_linears: on the meta device, gives a model quantized layers; returns transformers' quantizer, if it has
            one. Arguments: model, dtype, device, kernel, packing.
        is_layer: whether a module is one of its layers; asked of every module, so it imports nothing.
        fill: gives such a layer random codes, and scales that bring them to the standard deviation that is asked for.
        finish: done with a dummy once it is filled. Arguments: model, dtype.
        before_running: done with a model that is not trained. Arguments: model, dtype, device.
    """

    load: Load
    kernel_name: Callable[[Any], str]
    stored_packing: Callable[[Path | None, Mapping[str, Any] | None], dict[str, Any]]
    replace_linears: Callable[[Any, torch.dtype, str, str, dict[str, Any]], Any]
    is_layer: Callable[[nn.Module], bool]
    fill: Callable[[Any, RandomNumbers, float], None]
    finish: Callable[[Any, torch.dtype], None]
    before_running: Callable[[Any, torch.dtype, str], None] = lambda model, dtype, device: None


def quantizer(name: str) -> Quantizer:
    """What the file of a quantizer says about it."""
    entry: Quantizer = import_module(QUANTIZERS[name].module).QUANTIZER
    return entry
