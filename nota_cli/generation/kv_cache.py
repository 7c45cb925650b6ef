"""Keys and values of what was read and written so far, at addresses that a CUDA graph can rely on."""

import inspect
from functools import cache

from torch import Tensor


@cache
def cache_name() -> str:
    """What models of this version of transformers call their cache, as an argument and in what they return.

    It is `cache`, and was `past_key_values` before.
    """
    from transformers import GenerationMixin

    known = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    return "cache" if "cache" in known else "past_key_values"


class FixedCache:
    """Keys and values `[batch, heads, length, width]` of every layer, at addresses that never change.

    Attributes:
        slots: where `update` writes: a slice, or one slot as a tensor `[1]` on the device.
        seen: how many slots attention looks at.
    """

    def __init__(self, batch: int, length: int) -> None:
        self.batch, self.length = batch, length
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.slots: slice | Tensor = slice(0)
        self.seen = length

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Store what a layer made of new tokens; returns all that it may look at. Attention layers call this."""
        if layer == len(self.keys):
            for new, store in ((keys, self.keys), (values, self.values)):
                store.append(new.new_zeros(self.batch, new.size(1), self.length, new.size(3)))
        for new, all_of_them in ((keys, self.keys[layer]), (values, self.values[layer])):
            if isinstance(self.slots, slice):
                all_of_them[:, :, self.slots] = new
            else:
                all_of_them.index_copy_(2, self.slots, new)
        return self.keys[layer][:, :, : self.seen], self.values[layer][:, :, : self.seen]

    def clear(self) -> None:
        """Zeros everywhere: what a broken batch left must not reach the next one, be it weighted with nothing."""
        for tensor in (*self.keys, *self.values):
            tensor.zero_()

    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))
