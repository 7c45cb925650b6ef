"""The parts that a model is made of, and how large they are."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One part of a model.

    Attributes:
        name: such as `speech_encoder`, `audio_encoder`, `connector`, `decoder` or `lora`.
        parameters: numbers that the part has learnt; a packed weight counts as the matrix that it stands for.
        by_type: bytes by type of number, buffers included; `4-bit` and `8-bit` hold packed weights with their scales
            and zeros.
    """

    name: str
    parameters: int
    by_type: Mapping[str, int]

    @property
    def bytes(self) -> int:
        """Of everything together."""
        return sum(self.by_type.values())
