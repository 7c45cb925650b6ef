"""What each width of weights costs in onnxruntime: rows times a matrix, as `nota export` writes such a product.

    python benchmarks/matrix_products.py

One thread, its own processor time, the fastest of --rounds; so other work on the machine adds little. The error is that
of the products over normal random numbers. Prints a Markdown table.
"""

import argparse
import time

import numpy as np
import onnx_ir as ir
import onnxruntime

from nota_cli.export.quantize import quantize

KINDS = {
    "32 bits": (32, False),
    "8 bits, blocks": (8, False),
    "8 bits, integers": (8, True),
    "4 bits, blocks": (4, False),
}


def session(weight: np.ndarray, bits: int, integers: bool) -> onnxruntime.InferenceSession:
    """The product of `x` `[1, rows, K]` with a matrix `[K, N]`."""
    x = ir.Value(name="x", shape=ir.Shape([1, "rows", len(weight)]), type=ir.TensorType(ir.DataType.FLOAT))
    matrix = ir.Value(name="weight", const_value=ir.Tensor(weight, name="weight"))
    product = ir.node("MatMul", [x, matrix], name="product")
    (y,) = product.outputs
    y.name, y.type = "y", x.type
    graph = ir.Graph([x], [y], nodes=[product], initializers=[matrix], opset_imports={"": 20}, name="product")
    model = ir.Model(graph, ir_version=10)
    quantize(model, bits, integers=integers)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 1], help="500: the frames of 10 s in Whisper")
    parser.add_argument("--sizes", type=int, nargs=2, default=[1280, 5120], metavar=("K", "N"))
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    inside, outside = arguments.sizes
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((inside, outside)).astype(np.float32)
    print("| rows | weights | ms | Gop/s | relative error |\n|---|---|---|---|---|")
    for rows in arguments.rows:
        x = rng.standard_normal((1, rows, inside)).astype(np.float32)
        exact = x @ weight
        for kind, (bits, integers) in KINDS.items():
            run = session(weight, bits, integers)
            times = []
            for _ in range(arguments.rounds):
                begun = time.thread_time()
                (y,) = run.run(None, {"x": x})
                times.append(time.thread_time() - begun)
            error = np.linalg.norm(y - exact) / np.linalg.norm(exact)
            rate = 2 * rows * inside * outside / min(times) / 1e9
            print(f"| {rows} | {kind} | {1000 * min(times):.2f} | {rate:.0f} | {error:.1e} |", flush=True)


if __name__ == "__main__":
    main()
