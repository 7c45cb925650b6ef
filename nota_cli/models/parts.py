"""The parts that a model is made of, and how large they are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One part of a model.

    Attributes:
        name: such as `speech_encoder`, `audio_encoder`, `connector`, `decoder` or `lora`.
        parameters: numbers that the part has learnt; a packed weight counts as the matrix that it stands for.
        by_type: bytes by type of number, buffers included; `4-bit` and `8-bit` hold packed weights with their scales
            and zeros.
        compute: the type of its arithmetic, and why where it is not the type that it is stored in; empty if not known.
    """

    name: str
    parameters: int
    by_type: Mapping[str, int]
    compute: str = ""

    @property
    def bytes(self) -> int:
        """Of everything together."""
        return sum(self.by_type.values())


def compute_types(parts: Iterable[Part]) -> dict[str, str]:
    """What each part computes in, of those of which that is known."""
    return {part.name: part.compute for part in parts if part.compute}
