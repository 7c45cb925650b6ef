"""What a model is made of: parameters and bytes by part and by type of number."""

from collections import Counter
from dataclasses import dataclass

from torch import Tensor, nn

from nota_cli.models.families.salmonn import AudioLM
from nota_cli.quantization.dummy import packed_tensors


@dataclass(frozen=True)
class Part:
    """One part of a model.

    Attributes:
        name: `speech_encoder`, `audio_encoder`, `connector`, `decoder` or `lora`.
        parameters: numbers that the part has learnt; a packed weight counts as the matrix that it stands for.
        by_type: bytes by type of number, buffers included; `4-bit` and
            `8-bit` hold packed weights with their scales and zeros.
    """

    name: str
    parameters: int
    by_type: dict[str, int]

    @property
    def bytes(self) -> int:
        """Of everything together."""
        return sum(self.by_type.values())


def inventory(model: AudioLM) -> list[Part]:
    """The parts of a model, on whatever device, the meta device included; every tensor is counted once."""
    parts = []
    for name in ("speech_encoder", "audio_encoder", "connector", "decoder"):
        module = getattr(model, name)
        if module is not None:
            parts.append(_part(name, module, lora=False))
    if model.recipe.lora is not None:
        parts.append(_part("lora", model.decoder, lora=True))
    return parts


def _part(name: str, module: nn.Module, *, lora: bool) -> Part:
    parameters, by_type = 0, Counter[str]()
    seen: set[int] = set()

    def count(tensors: list[Tensor], kind: str | None = None) -> int:
        fresh = [tensor for tensor in tensors if id(tensor) not in seen]
        seen.update(id(tensor) for tensor in fresh)
        for tensor in fresh:
            by_type[kind or str(tensor.dtype).removeprefix("torch.")] += tensor.nbytes
        return sum(tensor.numel() for tensor in fresh)

    for path, inner in module.named_modules():
        if ("lora_" in path) != lora:
            continue
        packed = packed_tensors(inner)
        if packed:
            parameters += inner.in_features * inner.out_features
            count(packed, f"{getattr(inner, 'bits', 4)}-bit")  # bitsandbytes' layers are of 4 and do not say so
            bias = getattr(inner, "bias", None)
            parameters += 0 if bias is None else count([bias])
        else:
            parameters += count(list(inner.parameters(recurse=False)))
            count(list(inner.buffers(recurse=False)))
    return Part(name, parameters, dict(by_type))
