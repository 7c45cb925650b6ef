"""Linear layers whose weights are held in 8 or 4 bits and multiplied in the activations' own type, by torch alone.

For frozen encoders (`quantize_linears`), and for GPTQ decoders that generate on a CPU (`repack_gptq`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nota_cli.errors import RecipeError

BITS = {"int8": 8, "int4": 4}
GROUPS = {8: (128, 64, 32), 4: (64, 32)}  # weights of a row that share a scale: the first that divides the row
BLOCK = 1 << 20  # weights that are unpacked at a time: they stay in the processor's cache
INT4PACK_GROUPS = (32, 64, 128, 256)
CPU_KERNELS = ("int4pack", "blockwise")
"""What `repack_gptq` makes: torch's own 4-bit product in bfloat16, or `PackedLinear`, exact in every type."""


def product_by_rows(x: Tensor, weight: Callable[[int, int], Tensor], out_features: int, rows: int) -> Tensor:
    """`[..., in]` to `[..., out]` by a weight that is made some rows at a time.

    Args:
        x: what goes in.
        weight: rows from one up to another one, `[rows, in]` in the type of `x`; there may be fewer at the end.
        out_features: all rows of the weight.
        rows: how many are made at a time.
    """
    out = x.new_empty(*x.shape[:-1], out_features)
    for start in range(0, out_features, rows):
        out[..., start : start + rows] = F.linear(x, weight(start, start + rows))
    return out


class PackedLinear(nn.Module):
    """A frozen linear layer that unpacks its weight block by block while it multiplies.

    The weight is `(codes - zeros) * scales` by groups of inputs.

    Args:
        codes: `[out, groups, group]`, int8, or two codes a byte (uint8 `[out, groups, group / 2]`: a group's first
            half in the low bits, its second in the high ones).
        scales: `[out, groups, 1]`.
        zeros: the codes that stand for zero, uint8 `[out, groups, 1]`; None where that is 0.
        bias: `[out]` or None.
        order: for each place of `codes` the input that it belongs to; None where they agree.
        dtype: in a state dict the layer is a plain `weight` of this type, so that a checkpoint does not depend on how
            its weights were held in memory; None leaves it out.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    order: Tensor | None

    def __init__(
        self,
        codes: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        bias: Tensor | None,
        order: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.bits = 8 if codes.dtype == torch.int8 else 4
        self.group_size = codes.size(2) * 8 // self.bits
        self.out_features, self.in_features = codes.size(0), codes.size(1) * self.group_size
        self.weight_dtype = dtype
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", zeros)
        self.register_buffer("order", order)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @classmethod
    def quantize(cls, linear: nn.Linear, bits: int) -> "PackedLinear":
        """Round a layer's weight to the nearest codes: symmetric in 8 bits, with a zero point in 4."""
        weight = linear.weight.detach()
        group = next((size for size in GROUPS[bits] if linear.in_features % size == 0), linear.in_features)
        values = weight.float().unflatten(1, (-1, group))
        tiny = torch.finfo(torch.bfloat16).tiny
        if bits == 8:
            scales = (values.abs().amax(2, keepdim=True) / 127).clamp(min=tiny).bfloat16()
            codes = (values / scales.float()).round().clamp(-127, 127).to(torch.int8)
            return cls(codes, scales, None, linear.bias, dtype=weight.dtype)
        low, high = values.amin(2, keepdim=True).clamp(max=0), values.amax(2, keepdim=True).clamp(min=0)
        scales = ((high - low) / 15).clamp(min=tiny).bfloat16()
        zeros = (-low / scales.float()).round().clamp(0, 15)
        codes = (values / scales.float() + zeros).round().clamp(0, 15).to(torch.uint8)
        return cls(_two_a_byte(codes), scales, zeros.to(torch.uint8), linear.bias, dtype=weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]` in the type of `x`."""
        if self.order is not None:
            x = x.index_select(-1, self.order)
        rows = max(1, BLOCK // self.in_features)
        if rows >= self.out_features:
            return F.linear(x, self._rows(0, rows, x.dtype), None if self.bias is None else self.bias.to(x.dtype))
        out = product_by_rows(x, lambda start, stop: self._rows(start, stop, x.dtype), self.out_features, rows)
        return out if self.bias is None else out.add_(self.bias)

    def dequantize(self) -> Tensor:
        """The weight `[out, in]` in float32."""
        weight = self._rows(0, self.out_features, torch.float32)
        return weight if self.order is None else torch.empty_like(weight).index_copy_(1, self.order, weight)

    def extra_repr(self) -> str:
        """Sizes, as torch's own layers show them."""
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, group_size={self.group_size}"

    def _rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        codes = self.codes[start:stop]
        if self.bits == 4:
            codes = torch.cat([codes & 15, codes >> 4], dim=2)
        weight = codes.to(dtype)
        if self.zeros is not None:
            weight.sub_(self.zeros[start:stop].to(dtype))
        return weight.mul_(self.scales[start:stop].to(dtype)).flatten(1)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        if self.weight_dtype is None:
            return
        destination[prefix + "weight"] = self.dequantize().to(self.weight_dtype)
        if self.bias is not None:
            destination[prefix + "bias"] = self.bias if keep_vars else self.bias.detach()

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        if prefix + "weight" in state:  # silence would leave the old weight in place
            rest[-1].append(f"{prefix}weight: packed in {self.bits} bits; load weights before they are packed")


class Int4PackLinear(nn.Module):
    """A frozen 4-bit layer on torch's own CPU product (`_weight_int4pack_mm_for_cpu`), in bfloat16 whatever goes in.

    Its codes lie as this processor wants them: it lives in memory alone, and has no state dict to save.
    """

    bits = 4
    packed: Tensor
    scales_and_zeros: Tensor
    order: Tensor | None

    def __init__(self, source: PackedLinear) -> None:
        super().__init__()
        self.in_features, self.out_features = source.in_features, source.out_features
        self.group_size = source.group_size
        codes = torch.cat([source.codes & 15, source.codes >> 4], dim=2).flatten(1)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
        scales = source.scales.bfloat16().float()
        middle = 8 if source.zeros is None else 8 - source.zeros.float()  # the product takes 8 for zero
        pairs = torch.cat([scales, middle * scales], dim=2).transpose(0, 1)
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("scales_and_zeros", pairs.bfloat16().contiguous(), persistent=False)
        self.register_buffer("order", source.order, persistent=False)
        self.bias = source.bias

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]` in the type of `x`; multiplied in bfloat16."""
        flat = x.reshape(-1, self.in_features).bfloat16()
        if self.order is not None:
            flat = flat.index_select(1, self.order)
        out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            flat.contiguous(), self.packed, self.group_size, self.scales_and_zeros
        )
        out = out.to(x.dtype).view(*x.shape[:-1], self.out_features)
        return out if self.bias is None else out + self.bias.to(x.dtype)


def quantize_linears(module: nn.Module, quantization: str) -> int:
    """Replace every `nn.Linear` in `module` by one of 8 or 4 bits, one after another; convolutions stay.

    Args:
        module: frozen; on any device, the meta device included.
        quantization: "int8", "int4" or "none". Groups of 128 (8 bits) or 64 inputs share a scale, fewer where these
            do not divide the inputs.

    Returns:
        Number of layers replaced.

    Raises:
        RecipeError: no such quantization.
    """
    if quantization == "none":
        return 0
    if quantization not in BITS:
        raise RecipeError(f"quantization: {quantization!r} is not one of none, {', '.join(BITS)}")
    bits = BITS[quantization]

    def pack(inner: nn.Module) -> nn.Module | None:
        if isinstance(inner, nn.Linear) and inner.in_features % 2 == 0:
            return PackedLinear.quantize(inner, bits)
        return None

    return _replace(module, pack)


def repack_gptq(model: nn.Module, kernel: str) -> int:
    """Let the 4-bit layers that gptqmodel's torch kernel multiplies run on one of `CPU_KERNELS`, for inference on CPU.

    Works below the adapters of PEFT, which stay. The torch kernel unpacks every layer whole at every step.
    `blockwise` multiplies with the very same weights, `int4pack` in bfloat16 with scales rounded to it. Layers of
    other bits, or of shapes that the kernel does not take, are left as they are.

    Returns:
        Number of layers replaced.

    Raises:
        RecipeError: no such kernel.
    """
    if kernel not in CPU_KERNELS:
        raise RecipeError(f"decoder.kernel: {kernel!r} is not one of {', '.join(CPU_KERNELS)}")

    def pack(inner: Any) -> nn.Module | None:
        if "qweight" not in inner._buffers or getattr(inner, "QUANT_TYPE", None) != "torch":
            return None
        if inner.bits != 4 or inner.planar:
            return None
        blockwise = _from_gptq(inner)
        packed: nn.Module | None = blockwise
        if blockwise is not None and kernel == "int4pack":
            fits = blockwise.group_size in INT4PACK_GROUPS and blockwise.out_features % 16 == 0
            packed = Int4PackLinear(blockwise) if fits else None
        if packed is not None:
            inner._buffers.clear()  # gptqmodel's layers refer to themselves, and would stay until a collection
        return packed

    return _replace(model, pack)


def fast_int4pack() -> bool:
    """Whether torch has a vectorised 4-bit product for this processor; elsewhere it is slower than any other way."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def _replace(module: nn.Module, pack: Callable[[Any], nn.Module | None]) -> int:
    """Put `pack(layer)` for each layer for which that is not None; a layer known under several names stays one.

    No layer is held on to here, so that each one's memory is free before the next is packed.
    """
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for parent in module.modules():
        for name, child in parent._modules.items():
            if child is not None:
                owners.setdefault(id(child), []).append((parent, name))
    count = 0
    for known_under in owners.values():
        parent, name = known_under[0]
        training = parent.get_submodule(name).training
        packed = pack(parent.get_submodule(name))  # no name here holds the full layer any longer than that
        if packed is not None:
            for parent, name in known_under:
                parent._modules[name] = packed.train(training)
            count += 1
    return count


def _two_a_byte(codes: Tensor) -> Tensor:
    low, high = codes.chunk(2, dim=2)
    return low | (high << 4)


def unpack_nibbles(words: Tensor) -> Tensor:
    """int32 `[rows, n]` to the eight codes of each word, lowest first: uint8 `[rows, 8 n]`."""
    pairs = words.contiguous().view(torch.uint8)  # bytes come lowest first, as on every processor that torch is for
    return torch.stack([pairs & 15, pairs >> 4], dim=2).flatten(1)


@torch.no_grad()
def _from_gptq(layer: Any) -> PackedLinear | None:
    """A layer of gptqmodel's torch kernel, its codes, scales and zero points unchanged."""
    size = layer.group_size if layer.group_size > 0 else layer.in_features
    codes, zeros = unpack_nibbles(layer.qweight.T), unpack_nibbles(layer.qzeros).T
    if layer.qzero_format() == 1:  # held less one, as in files
        zeros = (zeros + 1) & 15
    groups = layer.g_idx.long()
    order = torch.argsort(groups, stable=True)
    expected = torch.arange(len(groups), device=groups.device) // size
    if len(groups) != layer.in_features or size % 2 or len(groups) % size or not torch.equal(groups[order], expected):
        return None  # groups of unequal sizes
    plain = torch.equal(order, torch.arange(len(order), device=order.device))
    codes = codes if plain else codes[:, order]
    return PackedLinear(
        _two_a_byte(codes.unflatten(1, (-1, size))),
        layer.scales.T.unsqueeze(2).contiguous(),
        zeros.unsqueeze(2).contiguous(),
        layer.bias,
        None if plain else order,
    )
