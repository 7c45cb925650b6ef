"""Counting what torch modules hold: parameters and bytes by part and by type of number."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from nota_cli.models.parts import Part
from nota_cli.quantization.dummy import packed_tensors


def count_parts(
    components: Mapping[str, nn.Module], *, adapted: bool = False, compute: Mapping[str, str] | None = None
) -> list[Part]:
    """Parts of a model, on whatever device, the meta device included; every tensor of a part is counted once.

    Args:
        components: the modules by the parts' names.
        adapted: whether the decoder holds adapters, which are a part of their own, `lora`.
        compute: what parts compute in, by name.
    """
    parts = [
        replace(_part(name, module, lora=False), compute=(compute or {}).get(name, ""))
        for name, module in components.items()
    ]
    return [*parts, _part("lora", components["decoder"], lora=True)] if adapted else parts


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
