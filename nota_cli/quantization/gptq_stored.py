"""4-bit GPTQ layers as they lie in a file, for decoders that run on a CPU without gptqmodel, whose import is slow.

`gptq.py` loads them through transformers' own seam for quantizers; `weight_only.repack_gptq` makes layers of them that
multiply fast.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nota_cli.quantization.weight_only import unpack_nibbles

if TYPE_CHECKING:
    from transformers import PreTrainedModel

METHOD = "nota_gptq"
"""The name of these layers' quantizer in transformers' registry."""
BITS = 4
CODES = 8  # of a word


class StoredGptqLinear(nn.Module):
    """A frozen 4-bit linear layer that holds its weight as GPTQ files do.

    Args:
        in_features: inputs.
        out_features: outputs.
        group_size: inputs that share a scale; -1: all of them.
        bias: whether it has one.
        dtype: of the bias and, once they are loaded, of the scales.
        zeros_less_one: zero points are stored less one (`gptq`), not as they are (`gptq_v2`).
    """

    QUANT_TYPE = "torch"
    bits = BITS
    planar = False
    qweight: Tensor
    qzeros: Tensor
    scales: Tensor
    g_idx: Tensor
    bias: Tensor | None

    def __init__(
        self, in_features: int, out_features: int, group_size: int, bias: bool, dtype: torch.dtype, zeros_less_one: bool
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.group_size = in_features, out_features, group_size
        self._zeros_less_one = zeros_less_one
        groups = 1 if group_size < 0 else -(-in_features // group_size)
        self.register_buffer("qweight", torch.zeros(in_features // CODES, out_features, dtype=torch.int32))
        self.register_buffer("qzeros", torch.zeros(groups, out_features // CODES, dtype=torch.int32))
        self.register_buffer("scales", torch.zeros(groups, out_features, dtype=dtype))
        self.register_buffer("g_idx", torch.zeros(in_features, dtype=torch.int32))
        self.register_buffer("bias", torch.zeros(out_features, dtype=dtype) if bias else None)

    def qzero_format(self) -> int:
        """1: zero points are stored less one; 2: as they are."""
        return 1 if self._zeros_less_one else 2

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`; unpacks the whole weight, for the few shapes that no faster layer takes."""
        codes, zeros = unpack_nibbles(self.qweight.T), unpack_nibbles(self.qzeros)
        if self._zeros_less_one:
            zeros = (zeros + 1) & 15
        groups = self.g_idx.long()
        weight = (codes.to(self.scales.dtype) - zeros.to(self.scales.dtype)[groups].T) * self.scales[groups].T
        return F.linear(x, weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


def stored_config(layers: Iterable[str], group_size: int, checkpoint_format: str) -> dict[str, Any]:
    """The `quantization_config` that makes transformers put `StoredGptqLinear` in the place of the layers named."""
    _register()
    return {
        "quant_method": METHOD,
        "layers": list(layers),
        "group_size": group_size,
        "zeros_less_one": checkpoint_format == "gptq",
    }


def _register() -> None:
    """Make the quantizer known to transformers; once, and late, since transformers' quantizers import much."""
    from transformers.quantizers import auto
    from transformers.quantizers.base import HfQuantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin

    if METHOD in auto.AUTO_QUANTIZER_MAPPING:
        return

    class StoredGptqConfig(QuantizationConfigMixin):  # type: ignore[misc, unused-ignore]
        def __init__(self, layers: list[str], group_size: int, zeros_less_one: bool, **_: Any) -> None:
            self.quant_method: Any = METHOD
            self.layers, self.group_size, self.zeros_less_one = layers, group_size, zeros_less_one

    class StoredGptqQuantizer(HfQuantizer):  # type: ignore[misc, unused-ignore]
        def _process_model_before_weight_loading(self, model: "PreTrainedModel", **_: Any) -> None:
            own: Any = self.quantization_config
            named = dict(model.named_modules())
            for name in own.layers:
                layer = named.get(name)
                if type(layer) is nn.Linear:  # what else is wrong with the file shows when names are compared
                    with torch.device("meta"):
                        stored = StoredGptqLinear(
                            layer.in_features,
                            layer.out_features,
                            own.group_size,
                            layer.bias is not None,
                            torch.float32 if layer.weight.dtype == torch.float32 else torch.float16,  # as in files
                            own.zeros_less_one,
                        )
                    model.set_submodule(name, stored)

        def is_serializable(self) -> bool:
            return False

        @property
        def is_trainable(self) -> bool:
            return False

    auto.register_quantization_config(METHOD)(StoredGptqConfig)
    auto.register_quantizer(METHOD)(StoredGptqQuantizer)
