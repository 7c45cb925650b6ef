"""A summary of the whole clip beside the windows: the module, prompts that take it, training it alone, export."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nota_cli.errors import CheckpointError, RecipeError
from nota_cli.models.build import build
from nota_cli.models.connectors.base import Summary, build_connector
from nota_cli.models.sizes import part_sizes
from nota_cli.prompts import Query, wrap
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.schema import Connector as Spec

SUMMARY = [
    "connector.summary=3",
    "prompts.tasks={asr: '<SpeechHere> Transcribe', audiocaption_v2: '<SummaryHere> Describe'}",
]


def states(batch: int, length: int, width: int) -> torch.Tensor:
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(length))


def test_mean_and_deviation_of_real_states_alone() -> None:
    summary = Summary(8, 5, 2).eval()
    speech = states(2, 9, 8)
    mask = torch.arange(9) < torch.tensor([9, 4])[:, None]
    embeds = summary([(speech, mask)])
    assert embeds.shape == (2, 2, 5)
    torch.testing.assert_close(summary([(speech[1:, :4], None)]), embeds[1:])
    norm = torch.nn.functional.layer_norm
    moments = torch.cat([norm(speech[0].mean(0), (8,)), norm(speech[0].std(0, correction=0), (8,))])
    expected = summary.projection(torch.nn.functional.gelu(summary.reduction(moments)))
    torch.testing.assert_close(embeds[0].flatten(), expected, rtol=1e-3, atol=1e-4)


def test_it_stands_before_the_windows() -> None:
    spec = Spec(hidden_size=16, heads=2, intermediate_size=16, layers=1, window_seconds=0.1, stride_seconds=0.1)
    torch.manual_seed(0)
    connector = build_connector(spec.model_copy(update={"summary": 3}), 8, 4, 12).eval()
    speech, audio = states(2, 20, 8), states(2, 16, 4)
    mask = torch.arange(20) < torch.tensor([20, 7])[:, None]
    audio_mask = torch.arange(16) < torch.tensor([16, 5])[:, None]
    embeds, alive = connector(speech, mask, audio, audio_mask)
    summary = connector.summary
    connector.summary = None
    windows, own = connector(speech, mask, audio, audio_mask)
    assert summary is not None
    assert torch.equal(embeds, torch.cat([summary([(speech, mask), (audio, audio_mask)]), windows], dim=1))
    assert torch.equal(alive[:, 3:], own)
    assert bool(alive[:, :3].all())


def test_a_prompt_takes_the_summary_or_the_windows(tiny_recipe: Path) -> None:
    recipe = load_recipe(str(tiny_recipe), SUMMARY)
    model = build(recipe, purpose="run")
    counted = {part.name: (part.parameters, part.by_type) for part in model.parts()}["connector"]
    assert counted == {part.name: (part.parameters, part.by_type) for part in part_sizes(recipe)}["connector"]
    sound = torch.sin(torch.arange(32_000) / 20).numpy()
    features = model.preprocessor().features([sound, sound[:20_000]])
    queries = [Query("audiocaption_v2"), Query("asr")]
    encoded = model.encode(features)
    _, mask = model.prompt_embeds(encoded, queries)
    windows = int(encoded.mask[1, 3:].sum())
    assert mask.sum(-1).tolist() == [
        len(head) + count + len(model.decoder.token_ids(wrap(recipe.prompts, query)[1]))
        for head, count, query in zip(model.prompt_heads(queries), (3, windows), queries, strict=True)
    ]
    # The windows of a clip are nothing to a prompt that takes its summary.
    changed = encoded.embeds.clone()
    changed[0, 3:] += 1
    other = type(encoded)(**{**vars(encoded), "embeds": changed})
    assert torch.equal(model.prompt_embeds(other, queries)[0], model.prompt_embeds(encoded, queries)[0])
    changed[0, 0] += 1
    assert not torch.equal(model.prompt_embeds(other, queries)[0], model.prompt_embeds(encoded, queries)[0])


def test_recipes_that_do_not_fit(tiny_recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"audiocaption_v2 has <SummaryHere>, and the connector makes no summary"):
        load_recipe(str(tiny_recipe), SUMMARY[1:])
    with pytest.raises(RecipeError, match="connector.train: summary, and connector.summary is 0"):
        load_recipe(str(tiny_recipe), ["connector.train=summary"])
    with pytest.raises(RecipeError, match="asr needs exactly one <SpeechHere> or <SummaryHere>"):
        load_recipe(str(tiny_recipe), ["connector.summary=3", "prompts.tasks.asr='<SpeechHere><SummaryHere>'"])
    with pytest.raises(RecipeError, match="<SummaryHere> is for systems with a connector of their own"):
        load_recipe("whisper-tiny.en", ["prompts.tasks.asr='<SummaryHere>'"])


def test_it_is_trained_alone_from_a_checkpoint_without_one(
    tiny_recipe: Path,
    clips: Path,
    nota: Callable[..., int],
    tmp_path: Path,
) -> None:
    from nota_cli.training.loop import train

    quiet = ["data.validation=[]", "train.ctc_weight=0", "train.label_weight=0", "lora={rank: 2}"]
    quiet += [f"{part}.train=false" for part in ("decoder", "speech_encoder", "audio_encoder")]
    first = tmp_path / "first"
    train(load_recipe(str(tiny_recipe), [*quiet, "train.steps=2"]), first)
    rows = json.loads((clips / "aac.json").read_text())["annotation"]
    (tmp_path / "sounds.json").write_text(json.dumps({"annotation": [{**r, "task": "audiocaption_v2"} for r in rows]}))
    source = {"annotation": str(tmp_path / "sounds.json"), "audio_root": str(clips)}
    settings = [*quiet, *SUMMARY, "connector.train=summary", "lora.train=false"]
    settings += [f"data.train={json.dumps([source])}", f"train.init={first}"]
    second = tmp_path / "second"
    train(load_recipe(str(tiny_recipe), [*settings, "train.steps=3"]), second)

    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no model.safetensors there"):
        train(load_recipe(str(tiny_recipe), [*settings[:-1], f"train.init={tmp_path / 'empty'}"]), tmp_path / "third")

    before = build(load_recipe(str(first)).with_checkpoint(first), purpose="convert").state_dict()
    after = build(load_recipe(str(second)).with_checkpoint(second), purpose="convert").state_dict()
    new = {name for name in after if name not in before}
    assert new == {name for name in after if name.startswith("connector.summary.")} != set()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []

    out = tmp_path / "o.csv"
    data = ["--annotation", tmp_path / "sounds.json", "--audio-root", clips, "--task", "aac", "--out", out]
    assert nota("infer", "--recipe", second, *data) == 0
    with out.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(rows)


def test_an_export_says_the_same(tiny_recipe: Path, clips: Path, nota: Callable[..., int], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from nota_cli.training.loop import train

    quiet = ["data.validation=[]", "train.steps=1"]
    checkpoint = tmp_path / "checkpoint"
    train(load_recipe(str(tiny_recipe), [*SUMMARY, *quiet]), checkpoint)
    graphs = tmp_path / "graphs"
    data = ["--annotation", clips / "all.json", "--audio-root", clips]
    assert nota("export", checkpoint, "--to", "onnx", "--out", graphs, *data) == 0
    texts = []
    for recipe in (checkpoint, graphs):
        out = tmp_path / f"{recipe.name}.csv"
        assert nota("infer", "--recipe", recipe, *data, "--out", out) == 0
        texts.append(out.read_text())
    assert texts[0] == texts[1]
