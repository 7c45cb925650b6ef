"""What an encoder's file says about it, so that building, dummy weights and pruning need no other file."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from nota_cli.recipe.encoders import ENCODERS

ConfigValues = dict[str, Any]


@dataclass(frozen=True)
class EncoderEntry:
    """One kind of encoder: a module that takes features and their lengths and gives states and their mask.

    The module has `output_dim`, the width of its states; one for sounds has `front_end`, a name or a function
    (`nota_cli.features.batch.FrontEnd`).

    Attributes:
        from_config: the encoder with random weights, from the values of a config and the recipe's section.
        load: the encoder from its published file or folder, and the recipe's section.
        layers: name of the list of its layers inside the module.
        layer_count: the value of its config that counts them.
        config_values: its config's values other than the defaults, as a recipe's `config` has them.
        shared: end of the names of tensors that a layer holds for all, and that stay if it goes.
        residual_scales: for DeepNet's scaling: of an encoder, parts of the names of what is added to the residual,
            whose weights depend on the number of layers; nothing for others.
        fixed: names of modules inside it that are never trained.
    """

    from_config: Callable[[ConfigValues, Any], nn.Module]
    load: Callable[[Path, Any], nn.Module]
    layers: str
    layer_count: str
    config_values: Callable[[Any], ConfigValues]
    shared: str | None = None
    residual_scales: Callable[[Any], tuple[str, ...]] = lambda encoder: ()
    fixed: tuple[str, ...] = ()


def encoder_entry(kind: str) -> EncoderEntry:
    """What the file of a kind of encoder says about it."""
    entry: EncoderEntry = import_module(ENCODERS[kind].module).ENCODER
    return entry


def non_default_fields(config: Any, names: list[str]) -> ConfigValues:
    """Values of a config that differ from those of its class."""
    default = type(config)()
    return {name: getattr(config, name) for name in names if getattr(config, name) != getattr(default, name)}
