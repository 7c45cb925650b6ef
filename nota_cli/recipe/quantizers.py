"""The ways to hold a decoder's weights in few bits that recipes may name: a new one is a line here and a file."""

from dataclasses import dataclass


@dataclass(frozen=True)
class QuantizerKind:
    """What reading a recipe has to know of a way to quantize a decoder, torch not imported.

    Attributes:
        module: where it is; its `QUANTIZER` says the rest (`nota_cli.quantization.base.Quantizer`).
        label: what messages call it.
        has_kernels: whether `decoder.kernel` chooses among kernels of its own.
    """

    module: str
    label: str
    has_kernels: bool = False


QUANTIZERS: dict[str, QuantizerKind] = {
    "gptq": QuantizerKind("nota_cli.quantization.gptq", "GPTQ", has_kernels=True),
    "nf4": QuantizerKind("nota_cli.quantization.nf4", "nf4"),
}
