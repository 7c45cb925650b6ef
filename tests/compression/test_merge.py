"""Merged adapters: the same texts, the same logits to the last digits; refused where merging is not exact."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.networks import load_network
from helpers.paths import SHIPPED
from helpers.prompts import listen, logits
from nota_cli.compression.merge import merge_checkpoint
from nota_cli.efficiency.measure import measure
from nota_cli.errors import CheckpointError, RecipeError, UsageError
from nota_cli.models.build import build
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.models.inference_lora import InferenceLora, merge_as_asked, merge_lora, prepare_to_run
from nota_cli.models.loading import load
from nota_cli.recipe.load import load_recipe

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make(tiny_recipe: Path, folder: Path, *settings: str) -> Path:
    """A checkpoint whose adapters change the texts."""
    lora = ["lora.rank=4", "lora.alpha=16"]
    if not any(setting.startswith("lora.targets=") for setting in settings):
        lora.append(f"lora.targets={json.dumps(ALL)}")
    torch.manual_seed(5)
    model = build(load_recipe(str(tiny_recipe), [*lora, *settings]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += (0.2 if "lora_" in name else 0.05) * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapted(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tiny_recipe, tmp_path_factory.mktemp("adapted") / "in")


def adapters(model: Salmonn) -> int:
    return sum(isinstance(module, LoraLayer | InferenceLora) for module in model.modules())


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_a_float32_decoder_says_the_same_without_adapters(adapted: Path) -> None:
    model = load_network(adapted)
    expected, texts = logits(model), model.generate(*listen(model))
    with model.decoder.model.disable_adapter():
        assert difference(logits(model), expected) > 0.1
    assert adapters(model) == 14
    names = {
        name.replace(".base_layer.", ".") for name, _ in model.decoder.base.named_parameters() if "lora" not in name
    }
    assert merge_lora(model) == 14
    assert adapters(model) == 0
    assert {name for name, _ in model.decoder.model.named_parameters()} == names
    assert difference(logits(model), expected) < 1e-5
    assert model.generate(*listen(model)) == texts
    assert merge_lora(model) == 0
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_nothing_to_merge(tiny_checkpoint: Path) -> None:
    assert merge_lora(load_network(tiny_checkpoint)) == 0
    with pytest.raises(RecipeError, match="nothing to merge"):
        merge_checkpoint(tiny_checkpoint, tiny_checkpoint.parent / "merged")


def test_half_precision_is_rounded_on_request_alone(tiny_recipe: Path, tmp_path: Path) -> None:
    checkpoint = make(tiny_recipe, tmp_path / "in", "decoder.dtype=bfloat16")
    model = load_network(checkpoint)
    expected = logits(model)
    assert merge_lora(model) == 0
    assert torch.equal(logits(model), expected)
    with pytest.raises(RecipeError, match=r"decoder\.dtype is bfloat16"):
        merge_checkpoint(checkpoint, tmp_path / "out")
    report = merge_checkpoint(checkpoint, tmp_path / "out", rounding=True)
    assert 1e-4 < report.lost < 0.1
    assert merge_lora(model, rounding=True) == report.layers == 14
    merged = logits(model)
    assert {parameter.dtype for parameter in model.decoder.parameters()} == {torch.bfloat16}
    assert 0 < difference(merged, expected) < 0.05
    assert torch.equal(logits(load_network(tmp_path / "out")), merged)


@pytest.mark.parametrize(("dtype", "merged"), [("float32", "auto always"), ("bfloat16", "always")])
@pytest.mark.parametrize("wish", ["auto", "never", "always"])
def test_the_recipe_says_what_infer_and_efficiency_merge(
    wish: str, dtype: str, merged: str, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(
        str(make(tiny_recipe, tmp_path, f"decoder.dtype={dtype}")),
        [f"generate.merge_lora={wish}", f"checkpoint={tmp_path}"],
    )
    left = 0 if wish in merged.split() else 14
    assert adapters(load(recipe, "cpu")) == left
    measured: list[Salmonn] = []
    monkeypatch.setattr(
        "nota_cli.efficiency.measure.measure_model", lambda model, *rest, **more: measured.append(model) or {}
    )
    measure(recipe)
    assert [adapters(model) for model in measured] == [left]


def test_always_merging_refuses_what_cannot_be_merged(tiny_recipe: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    always = ["generate.merge_lora=always"]
    plain = load_recipe(str(tiny_checkpoint), [*always, f"checkpoint={tiny_checkpoint}"])
    assert merge_as_asked(build(plain)) == 0  # no adapters, so there is nothing left to do
    quantized = load_recipe(str(SHIPPED), [*always, f"checkpoint={SHIPPED}"])
    for run in (load, measure):
        with pytest.raises(RecipeError, match=r"merge_lora.*gptq.*off the grid"):
            run(quantized, "cpu")
    lora = f"lora={json.dumps({'rank': 2, 'targets': ['lm_head']})}"
    tied = load_recipe(str(tiny_recipe), [*always, lora, "decoder.config.tie_word_embeddings=true"])
    with pytest.raises(RecipeError, match="shares its weights"):
        load(tied, "cpu")


def test_quantized_decoders_keep_their_adapters(tiny_recipe: Path, tmp_path: Path) -> None:
    model = load_network(SHIPPED)
    before = adapters(model)
    assert merge_lora(model, rounding=True) == 0
    assert adapters(model) == before > 0
    for checkpoint, quantization in ((SHIPPED, None), (make(tiny_recipe, tmp_path / "nf4"), "nf4")):
        if quantization:  # quantized while loading: the folder itself is in full precision
            values = yaml.safe_load((checkpoint / "recipe.yaml").read_text())
            values["decoder"] |= {"quantization": quantization, "train": False}
            (checkpoint / "recipe.yaml").write_text(yaml.safe_dump(values))
        with pytest.raises(RecipeError, match=r"quantization is (gptq|nf4).*before `nota quantize`"):
            merge_checkpoint(checkpoint, tmp_path / "out", rounding=True)
        assert not (tmp_path / "out").exists()


def test_a_merged_checkpoint_says_the_same(
    adapted: Path, nota: Callable[..., int], clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = merge_checkpoint(adapted, out)
    assert (report.folder, report.layers) == (out, 14)
    assert report.lost < 1e-5
    assert sorted(path.name for path in out.iterdir()) == ["decoder", "model.safetensors", "recipe.yaml"]
    assert load_recipe(str(out)).lora is None
    merged, model = load_network(out), load_network(adapted)
    assert adapters(merged) == 0
    assert difference(logits(merged), logits(model)) < 1e-5
    texts = []
    for folder in (adapted, out):
        csv = tmp_path / f"{folder.name}.csv"
        assert nota("infer", "--recipe", folder, "--annotation", clips / "all.json", "--out", csv) == 0
        texts.append(csv.read_text())
    assert texts[0] == texts[1]


@pytest.mark.parametrize("team", ["nota", "cv03", "nlp07", "cv16"])
def test_published_decoders_with_adapters_say_the_same(
    team: str, golden_systems: Path, golden_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """A row more for the pad token, tied embeddings, Qwen's biases; every team's own targets."""
    model = build(load_recipe(str(golden_recipe(golden_systems / team))))
    model.save_pretrained(tmp_path / "in")
    layers = adapters(model)
    assert merge_checkpoint(tmp_path / "in", tmp_path / "out").layers == layers
    merged = load_network(tmp_path / "out")
    expected = logits(model)
    assert difference(logits(merged), expected) < 1e-5
    texts = model.generate(*listen(model))
    assert merged.generate(*listen(merged)) == texts
    assert merge_lora(model) == layers
    assert difference(logits(model), expected) < 1e-5
    assert model.generate(*listen(model)) == texts


def test_weights_kept_in_half_precision_are_merged_in_the_type_they_run_in(adapted: Path, tmp_path: Path) -> None:
    load_network(adapted).save_pretrained(tmp_path / "in")
    file = tmp_path / "in" / "decoder" / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    assert merge_checkpoint(tmp_path / "in", tmp_path / "out").lost < 1e-5
    expected = logits(load_network(tmp_path / "in"))
    assert difference(logits(load_network(tmp_path / "out")), expected) < 1e-5


def test_an_adapted_output_layer_that_is_the_embedding_too_stays_adapted(tiny_recipe: Path, tmp_path: Path) -> None:
    tied = ["decoder.config.tie_word_embeddings=true", "lora.targets=[q_proj, lm_head]"]
    checkpoint = make(tiny_recipe, tmp_path / "in", *tied)
    model = load_network(checkpoint)
    assert merge_lora(model) == 0
    assert adapters(model) == 3
    with pytest.raises(RecipeError, match=r"share their weights[\s\S]*lm_head\.weight"):
        merge_checkpoint(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    untied = make(tiny_recipe, tmp_path / "untied", tied[1])
    expected = logits(load_network(untied))
    assert merge_checkpoint(untied, tmp_path / "out").layers == 3
    assert difference(logits(load_network(tmp_path / "out")), expected) < 1e-5


def test_damaged_folders_and_used_ones_are_refused(adapted: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there already"):
        merge_checkpoint(adapted, adapted)
    with pytest.raises(CheckpointError, match=r"not a folder with recipe\.yaml"):
        merge_checkpoint(tmp_path, tmp_path / "out")
    load_network(adapted).save_pretrained(tmp_path / "in")
    file = tmp_path / "in" / "adapter" / "adapter_model.safetensors"
    whole = load_file(file)
    name = next(name for name in whole if "lora_B" in name)
    save_file({key: value for key, value in whole.items() if key != name}, file)
    with pytest.raises(CheckpointError, match=r"adapter_model[\s\S]*lora_B"):
        merge_checkpoint(tmp_path / "in", tmp_path / "out")
    save_file({**whole, name: whole[name][1:].contiguous()}, file)
    with pytest.raises(CheckpointError, match="its adapter"):
        merge_checkpoint(tmp_path / "in", tmp_path / "out")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: no such file"):
        merge_checkpoint(tmp_path / "in", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_a_model_that_is_made_ready_keeps_its_logits_and_counts_its_adapters() -> None:
    before, after = load_network(SHIPPED), load_network(SHIPPED)
    prepare_to_run(after)
    assert any(isinstance(module, InferenceLora) for module in after.modules())
    assert [(part.name, part.parameters, part.bytes) for part in after.parts()] == [
        (part.name, part.parameters, part.bytes) for part in before.parts()
    ]
    ids = torch.arange(6)[None]
    assert torch.equal(after.decoder.model(input_ids=ids).logits, before.decoder.model(input_ids=ids).logits)
