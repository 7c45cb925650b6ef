"""The connector taught alone, towards the decoder's embeddings of what is spoken."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from nota_cli.data.annotation import read_annotation
from nota_cli.data.row_batches import RowBatches
from nota_cli.models.build import build
from nota_cli.models.decoders.decoder import Decoder
from nota_cli.recipe.load import load_recipe
from nota_cli.training.auxiliary import AlignmentHead, AuxiliaryHeads
from nota_cli.training.loop import train

QUIET = [
    "decoder.train=false",
    "train.ctc_weight=0",
    "train.label_weight=0",
    "connector.window_seconds=0.1",
    "connector.stride_seconds=0.1",
    "data.validation=[]",
    "train.augment={}",
    "train.save_every=1000",
]
RATES = {"learning_rate", "gradient_norm", "clips_per_second", "audio_seconds_per_second", "data_wait"}
ALONE = ["train.decoder_weight=0", "train.alignment_weight=1"]


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the decoder's layers fails; its embeddings may be read."""

    def run(*arguments: object, **settings: object) -> None:
        raise AssertionError("the decoder was run")

    load = Decoder.__init__

    def guarded(self: Decoder, *arguments: object, **settings: object) -> None:
        load(self, *arguments, **settings)
        self.model.register_forward_pre_hook(run)

    monkeypatch.setattr(Decoder, "__init__", guarded)


def spoken(clips: Path, tmp_path: Path) -> list[str]:
    """The settings that train on two clips of speech that say different words."""
    rows = json.loads((clips / "asr.json").read_text())["annotation"][:2]
    rows = [{**row, "text": text} for row, text in zip(rows, ("one seven", "three"), strict=True)]
    (tmp_path / "spoken.json").write_text(json.dumps({"annotation": rows}))
    source = {"annotation": str(tmp_path / "spoken.json"), "audio_root": str(clips)}
    return [*QUIET, f"data.train={json.dumps([source])}"]


@pytest.mark.usefixtures("no_decoder")
def test_the_loss_falls_and_the_decoder_never_runs(tiny_recipe: Path, clips: Path, tmp_path: Path) -> None:
    settings = [*spoken(clips, tmp_path), *ALONE, "train.save_dtype=bfloat16"]
    entries = {}
    for steps in (1, 20):
        train(load_recipe(str(tiny_recipe), [*settings, f"train.steps={steps}"]), tmp_path / f"run{steps}")
        log = (tmp_path / f"run{steps}" / "trainer" / "metrics.jsonl").read_text().splitlines()
        entries[steps] = json.loads(log[-1])
        assert set(entries[steps]) == {"step", "alignment", *RATES}
    assert entries[20]["alignment"] < 0.5 * entries[1]["alignment"]
    build(load_recipe(str(tmp_path / "run20")).model_copy(update={"checkpoint": str(tmp_path / "run20")}))


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize("cut", [1, 5])
def test_a_cut_run_ends_with_the_same_weights(cut: int, tiny_recipe: Path, clips: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(tiny_recipe), [*spoken(clips, tmp_path), *ALONE, "train.steps=8"])
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "cut", stop_after=cut)
    train(recipe, tmp_path / "cut", resume=True)
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


@pytest.mark.parametrize("weight", [0.3, 2.0])
def test_beside_the_decoder_both_losses_are_weighed(
    weight: float, tiny_recipe: Path, clips: Path, tmp_path: Path
) -> None:
    def first(*more: str) -> dict[str, float]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        settings = [*spoken(clips, tmp_path), "train.steps=1", *more]
        train(load_recipe(str(tiny_recipe), settings), folder)
        return json.loads((folder / "trainer" / "metrics.jsonl").read_text().splitlines()[0])

    plain = first("train.decoder_weight=1", "train.alignment_weight=1")
    weighed = first(f"train.decoder_weight={weight}", f"train.alignment_weight={weight}")
    assert weighed["loss"] == pytest.approx(weight * plain["loss"], rel=1e-4)
    assert weighed["alignment"] == pytest.approx(weight * plain["alignment"], rel=1e-4)


def test_an_output_that_spells_the_tokens_loses_least(tiny_recipe: Path, clips: Path) -> None:
    """The loss is that of F.ctc_loss on products with the embeddings, and right embeddings beat wrong ones."""
    model = build(load_recipe(str(tiny_recipe), QUIET))
    torch.manual_seed(0)
    head = AlignmentHead(model)
    rows = read_annotation(clips / "asr.json")[:2]
    encoded = model.encode(RowBatches(rows, [[0, 1]], clips, model.preprocessor())[0].features)
    words = [model.decoder.token_ids("three seven one"), model.decoder.token_ids("one")]
    table = model.decoder.embed(torch.arange(len(model.decoder.tokenizer))) / model.decoder.audio_scale

    def spelled(texts: list[list[int]]) -> torch.Tensor:
        embeds = head.blank.detach().expand_as(encoded.embeds).clone()
        for row, ids in enumerate(texts):
            for place, token in enumerate(ids):
                embeds[row, 2 * place] = table[token]
        return embeds

    def loss(embeds: torch.Tensor) -> float:
        return float(head(type(encoded)(**{**vars(encoded), "embeds": embeds}), [0, 1], words))

    right, swapped = loss(spelled(words)), loss(spelled(words[::-1]))
    assert right < 0.1 * swapped
    scores = head.scale * F.linear(encoded.embeds, torch.cat([table, head.blank[None]]))
    expected = [
        F.ctc_loss(
            scores[i, : int(encoded.mask[i].sum())].log_softmax(-1),
            torch.tensor(ids),
            torch.tensor(int(encoded.mask[i].sum())),
            torch.tensor(len(ids)),
            blank=len(table),
            reduction="sum",
        )
        / len(ids)
        for i, ids in enumerate(words)
    ]
    assert loss(encoded.embeds) == pytest.approx(float(sum(expected)) / 2, rel=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_recipe_says_in_what_numbers_weights_are_saved(
    dtype: str, tiny_recipe: Path, clips: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    settings = [*spoken(clips, tmp_path), "train.steps=1", f"train.save_dtype={dtype}"]
    train(load_recipe(str(tiny_recipe), settings), tmp_path / "run")
    kinds = {tensor.dtype for tensor in load_file(tmp_path / "run" / "model.safetensors").values()}
    assert kinds == {getattr(torch, dtype)}


def test_captions_are_aligned_where_the_recipe_asks_for_it(tiny_recipe: Path, clips: Path) -> None:
    """A mixed batch's loss is that of the speech alone, or that of all of its clips."""
    rows = [read_annotation(clips / "asr.json")[0], read_annotation(clips / "aac.json")[0]]
    losses = {}
    for tasks in (["asr"], ["aac"], ["asr", "aac"]):
        recipe = load_recipe(str(tiny_recipe), [*QUIET, *ALONE, f"train.alignment_tasks={json.dumps(tasks)}"])
        torch.manual_seed(0)
        model = build(recipe)
        heads = AuxiliaryHeads(model, recipe.train, [])
        batch = RowBatches(rows, [[0, 1]], clips, model.preprocessor())[0]
        assert heads.counts(batch) == {"alignment": len(tasks)}
        losses[len(tasks), tasks[0]] = float(heads(model.encode(batch.features), batch)["alignment"].detach())
    both = losses[2, "asr"]
    assert both == pytest.approx((losses[1, "asr"] + losses[1, "aac"]) / 2, rel=1e-5)
    assert losses[1, "asr"] != pytest.approx(both, rel=1e-3)
