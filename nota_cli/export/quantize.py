"""The weights of a graph's linear layers in 8 or 4 bits, by onnxruntime's own quantizer."""

import logging
from typing import Any

from nota_cli.errors import UsageError

BLOCK = 32  # weights that share a scale
ACCURACY = 4  # onnxruntime's level at which activations are rounded to int8 too, so that its fast kernels run


def quantized(proto: Any, bits: int) -> Any:
    """The graph with the weights of its matrix products in `bits` bits; at 32 bits the graph itself.

    Raises:
        UsageError: there is no such width.
    """
    if bits == 32:
        return proto
    if bits not in (4, 8):
        raise UsageError(f"{bits} bits: a graph's weights are written in 32, 8 or 4")
    handlers = list(logging.root.handlers)
    from onnxruntime.quantization import matmul_nbits_quantizer as quantizer

    logging.root.handlers[:] = handlers  # importing it sets up logging for the whole process; errors would come twice
    config = quantizer.DefaultWeightOnlyQuantConfig(
        block_size=BLOCK, is_symmetric=True, accuracy_level=ACCURACY, bits=bits
    )
    work = quantizer.MatMulNBitsQuantizer(
        proto, bits=bits, block_size=BLOCK, is_symmetric=True, accuracy_level=ACCURACY, algo_config=config
    )
    work.process()
    return work.model.model
