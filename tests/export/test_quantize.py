"""Weights of a graph in fewer bits, held against the same graph at full width in onnxruntime."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

ir = pytest.importorskip("onnx_ir")
onnxruntime = pytest.importorskip("onnxruntime")

from nota_cli.errors import UsageError  # noqa: E402
from nota_cli.export.embedding import share_table  # noqa: E402
from nota_cli.export.quantize import quantize  # noqa: E402
from nota_cli.generation.runtimes.onnx import TokenTable  # noqa: E402
from nota_cli.recipe.exported import FileEntry, Manifest  # noqa: E402

INSIDE, OUTSIDE = 96, 160


def graph(seed: int = 0) -> Any:
    """Two constant matrices over the same rows, and a product of what both give, which has no weights."""
    rng = np.random.default_rng(seed)
    x = ir.Value(name="x", shape=ir.Shape([2, "rows", INSIDE]), type=ir.TensorType(ir.DataType.FLOAT))
    weights = []
    for name in ("first", "second"):
        values = rng.standard_normal((INSIDE, OUTSIDE)).astype(np.float32)
        weights.append(ir.Value(name=name, const_value=ir.Tensor(values, name=name)))
    nodes = [ir.node("MatMul", [x, weight], name=f"by_{weight.name}") for weight in weights]
    nodes.append(ir.node("Transpose", [nodes[1].outputs[0]], {"perm": [0, 2, 1]}))
    nodes.append(ir.node("MatMul", [nodes[0].outputs[0], nodes[2].outputs[0]]))
    outputs = [nodes[0].outputs[0], nodes[3].outputs[0]]
    for number, value in enumerate(outputs):
        value.name, value.dtype = f"y{number}", ir.DataType.FLOAT
    inner = ir.Graph([x], outputs, nodes=nodes, initializers=weights, opset_imports={"": 20}, name="graph")
    return ir.Model(inner, ir_version=10)


def run(model: Any, folder: Path, rows: np.ndarray) -> tuple[list[np.ndarray], int]:
    """Outputs, and the size of the file."""
    path = folder / "graph.onnx"
    ir.save(model, path)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": rows}), path.stat().st_size


@pytest.mark.parametrize(
    ("bits", "integers", "error", "size"),
    [(16, False, 1e-3, 0.6), (8, False, 0.02, 0.4), (8, True, 0.03, 0.4), (4, True, 0.2, 0.3), (4, False, 0.2, 0.3)],
)
def test_products_are_near_and_files_small(
    bits: int, integers: bool, error: float, size: float, tmp_path: Path
) -> None:
    rows = np.random.default_rng(1).standard_normal((2, 7, INSIDE)).astype(np.float32)
    rows[:, 3] *= 1000  # a loud row leaves the others as exact as they were
    rows[1, 4] = 0
    exact, full = run(graph(), tmp_path, rows)
    model = graph()
    quantize(model, bits, integers=integers)
    rounded, few = run(model, tmp_path, rows)
    assert few < size * full
    for theirs, ours in zip(exact[0].reshape(14, -1), rounded[0].reshape(14, -1), strict=True):
        assert np.linalg.norm(ours - theirs) <= error * np.linalg.norm(theirs)
    assert 0 < np.linalg.norm(rounded[1] - exact[1]) <= 2 * error * np.linalg.norm(exact[1])


def test_rows_that_two_matrices_multiply_are_rounded_once() -> None:
    model = graph()
    quantize(model, 8, integers=True)
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("MatMulIntegerToFloat") == 2
    assert kinds.count("ReduceMax") == 1
    assert kinds.count("MatMul") == 1  # of two activations


def test_full_width_changes_nothing_and_no_other_width_is_taken() -> None:
    model = graph()
    quantize(model, 32)
    assert [node.op_type for node in model.graph] == ["MatMul", "MatMul", "Transpose", "MatMul"]
    with pytest.raises(UsageError, match="5 bits"):
        quantize(model, 5)


@pytest.mark.parametrize(("bits", "error"), [(8, 0.01), (4, 0.12)])
def test_a_graph_reads_its_output_layer_from_the_token_table(bits: int, error: float, tmp_path: Path) -> None:
    """The same two files give the products of the graph and the rows of the table."""
    model = graph()
    quantize(model, bits)
    whole = run(model, tmp_path, rows := np.random.default_rng(1).standard_normal((2, 7, INSIDE)).astype(np.float32))
    share_table(model, tmp_path)
    ir.save(model, tmp_path / "shared.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "shared.onnx", providers=["CPUExecutionProvider"])
    for alone, shared in zip(whole[0], session.run(None, {"x": rows}), strict=True):
        np.testing.assert_array_equal(shared, alone)
    assert (tmp_path / "shared.onnx").stat().st_size < 0.7 * whole[1]
    sizes = SimpleNamespace(width=INSIDE, token_scale=3.0)
    files = {path.name: FileEntry(bytes=0, sha256="") for path in tmp_path.glob("*.npy")}
    manifest = Manifest.model_construct(bits={"embedding": bits}, files=files, decoder=sizes)
    table = graph().graph.initializers["second"].const_value.numpy().T
    own = TokenTable(tmp_path, manifest)(np.array([[4, 0], [159, 7]]))
    expected = 3 * table[[[4, 0], [159, 7]]]
    assert own.shape == expected.shape
    assert np.linalg.norm(own - expected) <= error * np.linalg.norm(expected)
