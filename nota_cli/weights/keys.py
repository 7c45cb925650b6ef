"""What is missing, unexpected or of another shape among an encoder's published weights and dimensions."""

import dataclasses
from collections.abc import Mapping, Set
from typing import Any

from torch import Tensor

from nota_cli.errors import CheckpointError, RecipeError


def key_problems(stored: Mapping[str, Tensor], own: Mapping[str, Tensor], described_by: str) -> list[str]:
    """One line for each key that does not fit; an empty list means that all is well.

    Args:
        found: the file's tensors by the encoder's names.
        own: the encoder's `state_dict()`, all of which the file has to hold.
        described_by: what in the file sets the shapes, for messages.
    """
    problems = [f"missing: {name}" for name in sorted(own.keys() - stored.keys())]
    problems += [f"unexpected: {name}" for name in sorted(stored.keys() - own.keys())]
    return problems + [
        f"shape: {name} is {list(stored[name].shape)}, its {described_by} wants {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in stored and stored[name].shape != tensor.shape
    ]


def known_values(kind: type, values: Mapping[str, Any], ignored: Set[str], described_as: str) -> dict[str, Any]:
    """The values that are fields of a dataclass of dimensions.

    Args:
        kind: the dataclass.
        values: as published.
        ignored: keys that are passed over, for they do not change the states.
        described_as: what `values` is, for the message.

    Raises:
        CheckpointError: a key that is neither a field nor knowingly ignored.
    """
    known = {field.name for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known - ignored)
    if unknown:
        raise CheckpointError(
            f"unknown keys in the {described_as}, which could change its states: {', '.join(unknown)}"
        )
    return {name: value for name, value in values.items() if name in known}


def refuse_unknown(where: str, values: Mapping[str, object], known: Mapping[str, object]) -> None:
    """transformers takes any key into a config without a word; a typo in a recipe shall not vanish there.

    Raises:
        RecipeError: `values` has keys that `known` has not; every one is named.
    """
    unknown = [key for key in values if key not in known]
    if unknown:
        raise RecipeError(f"{where}: unknown key{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}")
