"""The weights of a graph in 16 bits, or those of its linear layers in 8 or 4 by onnxruntime's own kernel."""

from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from nota_cli.errors import UsageError

BLOCK = 32  # weights that share a scale
SMALL = 1024  # numbers in a tensor that is not worth a cast
ACCURACY = 4  # onnxruntime's level at which activations are rounded to int8 too, so that its fast kernels run
DOMAIN = "com.microsoft"
TINY = np.float32(1e-20)  # in the place of the largest magnitude of a row or column of zeros
WEIGHT_LEVELS, ROW_LEVELS, MIDDLE = 63, 127, 128  # of integers: largest weight, largest activation, where they lie


def quantize(model: ir.Model, bits: int, *, integers: bool = False) -> None:
    """Put the weights of a graph into 16 bits, or those of its matrix products into 8 or 4; at 32 bits nothing is done.

    The graph is changed in place and matrix by matrix: the full-precision weights are torch's own memory, and a copy of
    all of them would be the largest thing in an export.

    Args:
        model: the graph, its weights in float32.
        bits: 32, 16, 8 or 4.
        integers: at 8 bits, multiply integers (`_Integers`): 100 to 135 Gop/s on a core with AVX2 alone, where
            onnxruntime's kernel for blocks does 40 and float32 60, and less exact. For products of many rows, as an
            encoder's are.

    Raises:
        UsageError: there is no such width.
    """
    if bits == 16:
        _halve(model)
        return
    if bits not in (4, 8, 32):
        raise UsageError(f"{bits} bits: a graph's weights are written in 32, 16, 8 or 4")
    if bits == 32:
        return
    products = _Integers(model.graph)
    for node in list(RecursiveGraphIterator(model.graph)):
        held = node.inputs[1] if node.op_type == "MatMul" and node.domain == "" else None
        weight = None if held is None else held.const_value
        if held is None or weight is None or weight.dtype != ir.DataType.FLOAT or len(weight.shape) != 2:
            continue
        matrix = np.ascontiguousarray(weight.numpy())
        if bits == 8 and integers:
            nodes = products.product(node, held, matrix)
        else:
            nodes = [_blocks(model.graph, node, held, matrix, bits)]
        old, new = node.outputs[0], nodes[-1].outputs[0]
        new.name, new.shape, new.type = old.name, old.shape, old.type
        assert node.graph is not None
        ir.convenience.replace_nodes_and_values(node.graph, node, [node], nodes, [old], [new])
        if not held.uses():
            model.graph.initializers.pop(str(held.name), None)
    model.opset_imports.setdefault(DOMAIN, 1)


def _blocks(graph: ir.Graph, node: ir.Node, held: ir.Value, matrix: Any, bits: int) -> ir.Node:
    """`MatMulNBits` in the place of a product with the matrix `[K, N]`."""
    packed, scales = packed_blocks(matrix, bits)
    inputs = [node.inputs[0], _constant(graph, f"{held.name}_Q{bits}", packed)]
    inputs.append(_constant(graph, f"{held.name}_scales", scales))
    sizes = {"K": matrix.shape[0], "N": matrix.shape[1], "bits": bits, "block_size": BLOCK}
    return ir.node("MatMulNBits", inputs, {**sizes, "accuracy_level": ACCURACY}, domain=DOMAIN, name=node.name)


class _Integers:
    """Products of integers: weights with a scale for each output, activations with one for each row, found as it runs.

    Activations take 8 bits round 128. Weights keep to 7 of their 8: on a processor with AVX2 alone two products of full
    width overflow the 16 bits that they are added in. Rows that several matrices multiply are rounded once.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._rows: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def product(self, node: ir.Node, held: ir.Value, matrix: Any) -> list[ir.Node]:
        """Nodes in the place of a product with the matrix `[K, N]`, the last one's output that of the product."""
        rows = node.inputs[0]
        assert rows is not None
        nodes: list[ir.Node] = []
        if rows not in self._rows:
            self._rows[rows], nodes = self._rounded(rows)
        levels, largest = self._rows[rows]
        scale = np.maximum(np.abs(matrix).max(axis=0), TINY) / np.float32(WEIGHT_LEVELS)
        weight = _constant(self._graph, f"{held.name}_Q8", np.rint(matrix / scale).astype(np.int8))
        scales = _constant(self._graph, f"{held.name}_scales", scale / np.float32(ROW_LEVELS))
        one, middle = self._number(np.float32(1)), self._number(np.uint8(MIDDLE))
        product = ir.node(
            "MatMulIntegerToFloat", [levels, weight, one, scales, middle], domain=DOMAIN, name=f"{node.name}_levels"
        )
        return [*nodes, product, ir.node("Mul", [product.outputs[0], largest], name=node.name)]

    def _rounded(self, rows: ir.Value) -> tuple[tuple[ir.Value, ir.Value], list[ir.Node]]:
        """Rows as levels and the largest magnitude of each, and the nodes that make them."""
        last = self._number(np.array([-1], dtype=np.int64))
        nodes = [ir.node("Abs", [rows])]
        nodes.append(ir.node("ReduceMax", [nodes[-1].outputs[0], last], {"keepdims": 1}))
        nodes.append(ir.node("Max", [nodes[-1].outputs[0], self._number(TINY)]))
        largest = nodes[-1].outputs[0]
        nodes.append(ir.node("Div", [self._number(np.float32(ROW_LEVELS)), largest]))
        nodes.append(ir.node("Mul", [rows, nodes[-1].outputs[0]]))
        # A cast cuts off what is behind the point, and nothing here is negative: this rounds.
        nodes.append(ir.node("Add", [nodes[-1].outputs[0], self._number(np.float32(MIDDLE + 0.5))]))
        nodes.append(ir.node("Cast", [nodes[-1].outputs[0]], {"to": int(ir.DataType.UINT8)}))
        for node in nodes:
            node.name = node.outputs[0].name = f"{rows.name}_{node.op_type}"
        return (nodes[-1].outputs[0], largest), nodes

    def _number(self, value: Any) -> ir.Value:
        array = np.asarray(value)
        name = f"quantize_{array.dtype}_{array.item():g}"
        return self._graph.initializers.get(name) or _constant(self._graph, name, array)


def packed_blocks(matrix: Any, bits: int) -> tuple[Any, Any]:
    """A float32 matrix `[K, N]` as `MatMulNBits` takes it: uint8 `[N, blocks, bytes]` and a scale for each block."""
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        DefaultWeightOnlyQuantizer,
    )

    config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, accuracy_level=ACCURACY, bits=bits)
    packed, scales, _ = DefaultWeightOnlyQuantizer(config).qbits_block_quant(matrix)
    return packed, scales


def _constant(graph: ir.Graph, name: str, values: Any) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.Tensor(values, name=name))
    value.shape, value.dtype = ir.Shape(values.shape), ir.DataType.from_numpy(values.dtype)
    graph.register_initializer(value)
    return value


def _halve(model: ir.Model) -> None:
    """Weights stored as float16 and cast to float32 as the graph is loaded: half the file, one rounding.

    Small tensors, and those that float16 cannot hold, stay as they are.
    """
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        weight = value.const_value
        if weight is None or weight.dtype != ir.DataType.FLOAT or weight.size < SMALL:
            continue
        if not np.abs(weight.numpy()).max() <= np.finfo(np.float16).max:
            continue
        half = ir.Value(name=f"{name}_float16", shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT16))
        half.const_value = ir.LazyTensor(
            partial(_as_half, weight, half.name),
            dtype=ir.DataType.FLOAT16,
            shape=ir.Shape(weight.numpy().shape),
            name=half.name,
        )
        cast = ir.node("Cast", [half], {"to": int(ir.DataType.FLOAT)}, name=f"widen_{name}")
        graph.initializers.pop(name)
        cast.outputs[0].name = name
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        graph.register_initializer(half)
        graph.insert_before(graph[0], cast)


def _as_half(weight: ir.TensorProtocol, name: str | None) -> "ir.Tensor[Any]":
    return ir.Tensor(weight.numpy().astype(np.float16), name=name)
