"""The token table of an export: what lies in its files, read as the decoder's embeddings."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.paths import REPOSITORY

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")

from nota_cli.export.embedding import write_table  # noqa: E402
from nota_cli.export.graphs import plain_linears, token_scale  # noqa: E402
from nota_cli.generation.runtimes.onnx import TokenTable  # noqa: E402
from nota_cli.models.build import build  # noqa: E402
from nota_cli.quantization.weight_only import PackedLinear  # noqa: E402
from nota_cli.recipe.exported import FileEntry, Manifest, read_manifest  # noqa: E402
from nota_cli.recipe.load import load_recipe  # noqa: E402


@pytest.mark.parametrize(("bits", "error"), [(32, 0.0), (16, 1e-3), (8, 0.01), (4, 0.12)])
def test_a_table_of_its_own(bits: int, error: float, tiny_recipe: Path, tmp_path: Path) -> None:
    decoder = build(load_recipe(str(tiny_recipe)), purpose="run").decoder
    write_table(decoder, tmp_path, bits)
    files = {path.name: FileEntry(bytes=0, sha256="") for path in tmp_path.glob("*.npy")}
    sizes = SimpleNamespace(width=decoder.width, token_scale=token_scale(decoder))
    manifest = Manifest.model_construct(bits={"embedding": bits}, files=files, decoder=sizes)
    ids = torch.tensor([[1, 5, 2], [0, 3, 4]])
    with torch.no_grad():
        expected = decoder.embed(ids).float().numpy()
    own = TokenTable(tmp_path, manifest)(ids.numpy())
    assert own.shape == expected.shape
    assert own.dtype == np.float32
    assert np.linalg.norm(own - expected) <= error * np.linalg.norm(expected)


@pytest.mark.parametrize(("bits", "products"), [("8", []), ("4", ["--integer-encoders"])])
def test_a_table_that_is_the_output_layer_lies_on_disk_once(
    bits: str, products: list[str], tmp_path: Path, nota: Callable[..., int]
) -> None:
    """The graph reads the matrix where the table has it, and both mean the same numbers."""
    out = tmp_path / "export"
    widths = ["--encoder-bits", "8", *products, "--decoder-bits", bits, "--embedding-bits", bits]
    samples = REPOSITORY / "checkpoints" / "tiny" / "samples"
    assert nota("export", "tiny", "--out", out, *widths, "--clips", "1") == 0
    manifest = read_manifest(out)
    graph = onnx.load(out / "decoder.onnx", load_external_data=False)
    beside = {
        entry.value for tensor in graph.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    assert beside == {"embedding.npy", "embedding_scale.npy"}
    assert json.loads((out / "manifest.json").read_text())["bits"]["embedding"] == int(bits)
    decoder = build(load_recipe("tiny"), purpose="run").decoder
    ids = np.arange(20)
    with torch.no_grad():
        expected = decoder.embed(torch.from_numpy(ids)).float().numpy()
    own = TokenTable(out, manifest)(ids)
    assert np.linalg.norm(own - expected) <= {"8": 0.01, "4": 0.12}[bits] * np.linalg.norm(expected)
    assert nota("infer", "--recipe", out, "--task", "asr", samples / "audio", "--out", tmp_path / "texts.csv") == 0
    encoder = {node.op_type for node in onnx.load(out / "speech_encoder.onnx").graph.node}
    assert ("MatMulIntegerToFloat" in encoder) == bool(products)


def test_packed_layers_become_what_they_stand_for() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 48)
    model = torch.nn.Sequential(PackedLinear.quantize(linear, 4), torch.nn.ReLU())
    rows = torch.randn(3, 64)
    with torch.no_grad():
        expected = model(rows)
        plain_linears(model)
        assert type(model[0]) is torch.nn.Linear
        torch.testing.assert_close(model(rows), expected)
