"""The weights of a graph in 16 bits, or those of its linear layers in 8 or 4 by onnxruntime's own quantizer."""

from typing import Any

import numpy as np

from nota_cli.errors import UsageError

BLOCK = 32  # weights that share a scale
SMALL = 1024  # numbers in a tensor that is not worth a cast
ACCURACY = 4  # onnxruntime's level at which activations are rounded to int8 too, so that its fast kernels run


def quantized(proto: Any, bits: int) -> Any:
    """The graph with its weights in 16 bits, or those of its matrix products in 8 or 4; at 32 bits the graph itself.

    Raises:
        UsageError: there is no such width.
    """
    if bits == 32:
        return proto
    if bits == 16:
        return halved(proto)
    if bits not in (4, 8):
        raise UsageError(f"{bits} bits: a graph's weights are written in 32, 16, 8 or 4")
    from onnxruntime.quantization import matmul_nbits_quantizer as quantizer

    config = quantizer.DefaultWeightOnlyQuantConfig(
        block_size=BLOCK, is_symmetric=True, accuracy_level=ACCURACY, bits=bits
    )
    work = quantizer.MatMulNBitsQuantizer(
        proto, bits=bits, block_size=BLOCK, is_symmetric=True, accuracy_level=ACCURACY, algo_config=config
    )
    work.process()
    return work.model.model


def halved(proto: Any) -> Any:
    """The graph with its weights stored as float16 and cast to float32 as it is loaded: half the file, one rounding.

    Small tensors, and those that float16 cannot hold, stay as they are.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = proto.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < SMALL or not np.abs(values).max() <= np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_float16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"widen_{name}", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return proto
