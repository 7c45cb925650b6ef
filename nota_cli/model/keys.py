"""What is missing, unexpected or of another shape among an encoder's published weights."""

from collections.abc import Mapping

from torch import Tensor


def key_problems(found: Mapping[str, Tensor], own: Mapping[str, Tensor], described_by: str) -> list[str]:
    """One line for each key that does not fit; an empty list means that all is well.

    Args:
        found: the file's tensors by the encoder's names.
        own: the encoder's `state_dict()`, all of which the file has to hold.
        described_by: what in the file sets the shapes, for messages.
    """
    problems = [f"missing: {name}" for name in sorted(own.keys() - found.keys())]
    problems += [f"unexpected: {name}" for name in sorted(found.keys() - own.keys())]
    return problems + [
        f"shape: {name} is {list(found[name].shape)}, its {described_by} wants {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in found and found[name].shape != tensor.shape
    ]
