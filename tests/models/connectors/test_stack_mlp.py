"""Stacked states and a projection in the Q-Former's place: the module, recipes, training, inference and export."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import mean_connector
from nota_cli.errors import RecipeError
from nota_cli.export.graphs import graphs_of
from nota_cli.generation.runtimes.onnx import Graphs, TokenTable
from nota_cli.models.build import build
from nota_cli.models.connectors.stack_mlp import StackMlp
from nota_cli.models.sizes import part_sizes
from nota_cli.recipe.connectors import CONNECTORS
from nota_cli.recipe.exported import FileEntry, Manifest, Windows
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.schema import Connector as Spec

SMALL = Spec(kind="stack_mlp", hidden_size=16, stack=8)
SETTING = "connector={kind: stack_mlp, stack: 5, hidden_size: 48}"


def states(batch: int, length: int, width: int) -> torch.Tensor:
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(length))


def test_thirty_seconds_give_188_stacks_the_last_filled_up_with_zeros() -> None:
    connector = StackMlp(SMALL, 8, None, 12).eval()
    speech = states(1, 1500, 8)
    embeds, mask = connector(speech, None)
    assert embeds.shape == (1, 188, 12)
    assert bool(mask.all())
    filled = torch.cat([speech, torch.zeros(1, 4, 8)], dim=1)
    assert torch.equal(connector(filled, None)[0], embeds)
    changed = speech.clone()
    changed[:, -1] += 1
    assert not torch.equal(connector(changed, None)[0][:, -1], embeds[:, -1])


@pytest.mark.parametrize("audio_width", [None, 4])
def test_a_clip_is_embedded_alone_as_in_a_batch(audio_width: int | None) -> None:
    connector = StackMlp(SMALL, 8, audio_width, 12).eval()
    lengths = torch.tensor([40, 19])
    mask = torch.arange(40) < lengths[:, None]
    speech, audio = states(2, 40, 8), None if audio_width is None else states(2, 30, audio_width)
    ends = torch.tensor([30, 9])
    audio_mask = None if audio is None else torch.arange(30) < ends[:, None]
    embeds, alive = connector(speech, mask, audio, audio_mask)
    assert alive.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    more = () if audio is None or audio_mask is None else (audio[1:, :9], audio_mask[1:, :9])
    alone, _ = connector(speech[1:, :19], mask[1:, :19], *more)
    torch.testing.assert_close(alone[0], embeds[1, :3])


def test_recipes(tiny_recipe: Path) -> None:
    recipe = load_recipe(str(tiny_recipe), [SETTING])  # the Q-Former's settings of the file are left behind
    assert recipe.connector == Spec(kind="stack_mlp", stack=5, hidden_size=48)
    model = build(recipe)
    counted = {part.name: (part.parameters, part.by_type) for part in model.parts()}["connector"]
    assert counted == {part.name: (part.parameters, part.by_type) for part in part_sizes(recipe)}["connector"]
    with pytest.raises(RecipeError, match="connector: layers, heads: of qformer alone, and the kind is stack_mlp"):
        load_recipe(str(tiny_recipe), ["connector={kind: stack_mlp, layers: 3, heads: 4}"])
    with pytest.raises(RecipeError, match="connector: stack: of stack_mlp alone, and the kind is qformer"):
        load_recipe(str(tiny_recipe), ["connector.stack=4"])
    with pytest.raises(RecipeError, match="connector.kind: Input should be 'qformer' or 'stack_mlp'"):
        load_recipe(str(tiny_recipe), ["connector.kind=mlp"])
    with pytest.raises(RecipeError, match="hidden_size 33 is odd"):
        build(load_recipe(str(tiny_recipe), ["connector={kind: stack_mlp, hidden_size: 33}"]))


@pytest.fixture(scope="module")
def trained(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of the tiny system with stacking, trained for a few steps."""
    from nota_cli.training.loop import train

    folder = tmp_path_factory.mktemp("trained") / "stack"
    train(load_recipe(str(tiny_recipe), [SETTING, "train.steps=3"]), folder)
    return folder


def test_training_and_inference(
    trained: Path, tiny_recipe: Path, clips: Path, nota: Callable[..., int], tmp_path: Path
) -> None:
    before = build(load_recipe(str(trained)), purpose="convert")
    learned = build(load_recipe(str(trained)).with_checkpoint(trained), purpose="convert")
    for (name, start), end in zip(before.connector.named_parameters(), learned.connector.parameters(), strict=True):
        assert not torch.equal(start, end), name
    out = tmp_path / "o.csv"
    data = ["--annotation", clips / "all.json", "--audio-root", clips, "--out", out]
    assert nota("infer", "--recipe", trained, *data) == 0
    with out.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 5


def test_export(tiny_recipe: Path, tmp_path: Path) -> None:
    """The graph's embeddings are torch's, the last, part-filled stack included, with and without padding to 30 s."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    model = build(load_recipe(str(tiny_recipe), [SETTING]), purpose="run").eval()
    (graph,) = [graph for graph in graphs_of(model) if graph.name == "connector"]
    with torch.inference_mode(False):
        torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            tmp_path / "connector.onnx",
            input_names=list(graph.inputs),
            output_names=graph.outputs,
            dynamic_shapes=graph.dynamic,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    np.save(tmp_path / "embedding.npy", np.zeros((1, 1), dtype=np.float32))
    connector = model.connector
    sizes = Windows(window=connector.window, stride=connector.stride, keeps_rest=connector.keeps_rest)
    files = {"connector.onnx": FileEntry(bytes=0, sha256="")}
    manifest = Manifest.model_construct(windows=sizes, files=files, opset=20)
    graphs = Graphs(tmp_path, manifest, TokenTable(tmp_path, manifest))
    speech, audio = states(1, 23, 32), states(1, 26, 32)
    for clip in (True, False):
        mask = torch.ones(1, 23, dtype=torch.bool) if clip else None
        with torch.inference_mode():
            expected = connector(speech, mask, audio, None)[0][0] * model.decoder.audio_scale
        own = graphs.connect(speech.numpy(), audio.numpy(), clip=clip)
        assert own.shape == (6, 64)
        np.testing.assert_allclose(own, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_a_connector_from_outside(
    tiny_recipe: Path, clips: Path, nota: Callable[..., int], tmp_path: Path, outside: None
) -> None:
    recipe = load_recipe(str(tiny_recipe), ["connector.kind=mean"])
    assert {part.name for part in build(recipe, load_format="dummy").parts()} >= {"connector", "decoder"}
    with pytest.raises(RecipeError, match="the size of a mean is not known"):
        part_sizes(recipe)
    data = ["--annotation", clips / "asr.json", "--audio-root", clips, "--out", tmp_path / "o.csv"]
    assert nota("infer", "--recipe", tiny_recipe, "--set", "connector.kind=mean", *data) == 0


@pytest.fixture
def outside() -> Iterator[None]:
    """A kind that `helpers.mean_connector` adds to the registry."""
    mean_connector.register()
    yield
    del CONNECTORS["mean"]
