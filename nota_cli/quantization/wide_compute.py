"""Weights that stay in 16 bits while the arithmetic runs in float32, for processors without 16-bit products."""

import torch
from torch import Tensor, nn

from nota_cli.quantization.dummy import packed_tensors
from nota_cli.quantization.weight_only import product_by_rows

BLOCK = 1 << 18  # weights that are widened at a time: they stay in the processor's cache
HALF = (torch.bfloat16, torch.float16)


class HalfStoredLinear(nn.Linear):
    """A frozen linear layer with a 16-bit weight, widened block by block to the activations' type as it multiplies."""

    compute_dtype = torch.float32

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]` in the type of `input`."""
        rows = max(1, BLOCK // self.in_features)
        out = product_by_rows(
            input, lambda start, stop: self.weight[start:stop].to(input.dtype), self.out_features, rows
        )
        return out if self.bias is None else out.add_(self.bias.to(input.dtype))


@torch.no_grad()
def compute_in_float32(part: nn.Module) -> bool:
    """Let a part that only runs compute in float32 with the very weights that it holds; those stay in 16 bits.

    Linear layers and embeddings keep their 16-bit tables, tied ones in common; what else is in 16 bits (convolutions,
    norms: a few percent) is widened where it lies. Layers packed in fewer bits compute in the type that reaches them.

    Returns:
        Whether there was anything in 16 bits.
    """
    any_half = False
    for module in list(part.modules()):
        if getattr(module, "compute_dtype", None) in HALF:  # bitsandbytes' layers
            module.__dict__["compute_dtype"] = torch.float32
            any_half = True
            continue
        if isinstance(module, nn.Embedding) and module.weight.dtype in HALF:
            module.register_forward_hook(lambda module, inputs, output: output.float())
            any_half = True
            continue
        if type(module) is nn.Linear and module.weight.dtype in HALF:
            module.__class__ = HalfStoredLinear  # the same object: tied weights stay tied, and hooks stay
            any_half = True
            continue
        if packed_tensors(module):
            continue
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.dtype in HALF:
                tensor.data = tensor.data.float()
                any_half = True
    return any_half
