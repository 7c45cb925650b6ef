"""The token table of an export, once on disk where the decoder's output layer is the same matrix."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from nota_cli.export.quantize import packed_blocks
from nota_cli.generation.runtimes.onnx import SCALES, TABLE
from nota_cli.models.decoders.decoder import Decoder


def share_table(model: ir.Model, folder: Path) -> None:
    """Move the packed output layer of a decoder's graph into the files of the token table, where the graph reads it.

    Args:
        model: the graph, quantized; its last product is that of the output layer.
        folder: where the graph is going to lie.
    """
    head = [node for node in model.graph if node.op_type == "MatMulNBits"][-1]
    for value, file in zip(head.inputs[1:3], (TABLE, SCALES), strict=True):
        assert value is not None
        assert value.const_value is not None
        array = value.const_value.numpy()
        _save(folder / file, array)
        value.const_value = ir.ExternalTensor(
            file,
            (folder / file).stat().st_size - array.nbytes,
            array.nbytes,
            value.const_value.dtype,
            shape=ir.Shape(array.shape),
            name=str(value.name),
            base_dir=folder,
        )


@torch.no_grad()
def write_table(decoder: Decoder, folder: Path, bits: int) -> None:
    """The token table `[vocabulary, width]` as a file of its own.

    In 32 and 16 bits, and in 8 with a scale for each row, it is scaled as the decoder expects it; in 4 bits it is
    packed as the weights of a graph are, and not scaled.
    """
    weight = decoder.base.get_input_embeddings().weight
    if bits == 4:
        packed, scales = packed_blocks(np.ascontiguousarray(weight.float().numpy().T), bits)
        _save(folder / TABLE, packed)
        _save(folder / SCALES, scales)
        return
    table = decoder.embed(torch.arange(weight.size(0))).float().numpy()
    if bits == 8:
        scale = np.maximum(np.abs(table).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / np.float32(127)
        _save(folder / SCALES, scale.astype(np.float32))
        table = np.rint(table / scale).astype(np.int8)
    _save(folder / TABLE, table.astype(np.float16) if bits == 16 else table)


def _save(file: Path, array: np.ndarray[Any, Any]) -> None:
    np.save(file, np.ascontiguousarray(array))
