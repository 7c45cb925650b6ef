"""Every shipped recipe: built at its true size on the meta device, and trained and run with its parts made tiny."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from helpers.recipes import SALMONN
from nota_cli.models.build import build
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.schema import Recipe
from nota_cli.training.validate import validate

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"initializer_range": 0.1}  # at the usual 0.02 a decoder so narrow says the same whatever it hears
FAMILIES = {
    "vicuna": {"model_type": "llama"},
    "LLaMA-MoE": {"model_type": "llama_moe", "num_experts": 4, "num_selects": 2, "size_experts": [[32] * 4] * 2},
    "Llama": {"model_type": "llama", "num_key_value_heads": 1},
    "gemma-3": {"model_type": "gemma3_text", "num_key_value_heads": 1, "head_dim": 32, "query_pre_attn_scalar": 32},
    "gemma": {"model_type": "gemma2", "num_key_value_heads": 1, "head_dim": 32, "query_pre_attn_scalar": 32},
    "Qwen": {"model_type": "qwen2", "num_key_value_heads": 1},
}
AUDIO = {
    "beats": {
        "embed_dim": 32,
        "encoder_layers": 1,
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 64,
        "encoder_attention_heads": 2,
        "conv_pos": 16,
        "conv_pos_groups": 4,
    },
    "ced": {"embed_dim": 32, "depth": 1, "num_heads": 2},
    "eat": {"embed_dim": 32, "depth": 1, "num_heads": 2},
}
SEEDS = sorted(set(SALMONN) - {"tiny", "tiny-samples", "tiny-stage1", "tiny-stages"})


def test_the_recipes_of_the_seed_systems_are_there() -> None:
    main = {"salmonn-7b", "salmonn-3b", "gemma2-2b-gptq", "qwen2.5-0.5b-ced", "llama3.2-1b-bnb4"}
    trials = {"whisper-turbo-3b", "no-beats", "eat", "distill-qwen-1.5b", "qlora-3b", "llama3.2-3b-bnb4"}
    trials |= {"llama3.2-8b-bnb4", "qwen2.5-0.5b", "llama-moe"}
    assert main | trials | set(SLIM) <= set(SALMONN)


# Parameters in millions: of Whisper's encoders, BEATs, CED-small and EAT-base, and of the decoders, as published.
SPEECH = {"openai/whisper-large-v2": 637, "AudioLLMs/SALMONN_7B/whisper": 637, "openai/whisper-base": 20.59}
SPEECH |= {"openai/whisper-large-v3-turbo": 637}
SOUND = {"beats": 90, "ced": 22, "eat": 86}
DECODERS = {
    "AudioLLMs/SALMONN_7B/vicuna": 6738,
    "lmsys/vicuna-13b-v1.1": 13_016,
    "meta-llama/Llama-3.2-1B-Instruct": 1236,
    "meta-llama/Llama-3.2-3B-Instruct": 3213,
    "qilowoq/gemma-2-2B-it-4Bit-GPTQ": 2614,
    "Qwen/Qwen2.5-0.5B-Instruct": 494,
    "unsloth/Llama-3.2-1B-Instruct-bnb-4bit": 1236,
    "unsloth/Llama-3.2-3B-Instruct-bnb-4bit": 3213,
    "unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit": 8030,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1777,
    "llama-moe/LLaMA-MoE-v1-3_0B-2_16": 6738,
    "google/gemma-3-270m": 268.1 - (262_144 - 16_384) * 640 / 1e6,  # `small` keeps 16,384 tokens
    "weights/gemma2-2b-gptq-32k": 2614 - (256_000 - 32_768) * 2_304 / 1e6,
    "weights/qwen2.5-0.5b-32k": 494 - (151_936 - 32_768) * 896 / 1e6,
    "weights/llama3.2-1b-bnb4-32k": 1236 - (128_256 - 32_768) * 2_048 / 1e6,
}
SLIM = {
    "gemma2-2b-gptq-slim": "gemma2-2b-gptq",
    "qwen2.5-0.5b-ced-slim": "qwen2.5-0.5b-ced",
    "llama3.2-1b-slim": "llama3.2-1b-bnb4",
}


def test_every_recipe_builds_on_the_meta_device() -> None:
    for name in set(SALMONN) - set(SEEDS):
        model = build(load_recipe(name), "meta", load_format="dummy")
        assert 2.9e6 < sum(part.parameters for part in model.parts()) < 3.1e6


@pytest.mark.parametrize("name", SEEDS)
def test_a_recipe_builds_at_its_true_size_on_the_meta_device(name: str) -> None:
    recipe = load_recipe(name)
    model = build(recipe, "meta", load_format="dummy")
    assert all(tensor.is_meta for tensor in model.parameters())
    millions = {part.name: part.parameters / 1e6 for part in model.parts()}
    assert millions["speech_encoder"] == pytest.approx(SPEECH[recipe.speech_encoder.path], rel=0.01)
    if recipe.audio_encoder.kind != "none":
        assert millions["audio_encoder"] == pytest.approx(SOUND[recipe.audio_encoder.kind], rel=0.03)
    assert millions["decoder"] == pytest.approx(DECODERS[recipe.decoder.path], rel=0.005)
    four_bit = {part.name: part.by_type.get("4-bit", 0) for part in model.parts()}
    assert (four_bit["decoder"] > 0) == (recipe.decoder.quantization != "none")


@pytest.mark.parametrize(("slim", "team"), SLIM.items())
def test_a_slim_recipe_holds_less_than_half_of_its_teams_bytes(slim: str, team: str) -> None:
    size = {}
    for name in (slim, team):
        size[name] = sum(part.bytes for part in build(load_recipe(name), "meta", load_format="dummy").parts())
    assert size[slim] <= 0.45 * size[team]


@pytest.fixture(scope="session")
def tiny_decoder(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], Path]:
    """A decoder folder of the recipe's family and format, two layers deep; made once for all recipes that share it."""
    from nota_cli.compression.gptq import quantize_to_folder
    from nota_cli.models.decoders.tokenizer import load_tokenizer, special_ids
    from nota_cli.quantization.nf4 import load_nf4_decoder

    tokenizer = load_tokenizer(load_recipe(str(tiny_recipe)).decoder)
    made: dict[str, Path] = {}

    def make(recipe: Recipe) -> Path:
        name = recipe.decoder.path.split("/")[-1]
        family = next(family for family in FAMILIES if family.lower() in name.lower())
        packed = "gptq" if recipe.decoder.quantization == "gptq" else "nf4" if "bnb" in name else "full"
        key = f"{family}-{packed}"
        if key not in made:
            folder = tmp_path_factory.mktemp(key)
            torch.manual_seed(1)
            values = {**SIZES, "vocab_size": len(tokenizer), **special_ids(tokenizer), **FAMILIES[family]}
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
            if packed == "gptq":
                inputs = {"inputs_embeds": torch.randn(4, 12, 64), "attention_mask": torch.ones(4, 12, dtype=int)}
                quantize_to_folder(model, tokenizer, [inputs], folder, bits=4, group_size=32)
            else:
                model.save_pretrained(folder)
            if packed == "nf4":
                load_nf4_decoder(str(folder), torch.bfloat16).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture
def made_tiny(
    tiny_recipe: Path, tiny_decoder: Callable[[Recipe], Path], tmp_path: Path
) -> Callable[[str], tuple[Path, Recipe]]:
    """A recipe of the same name whose parts are tiny and random, and everything else is as shipped."""
    tiny = yaml.safe_load(tiny_recipe.read_text())

    def write(name: str) -> tuple[Path, Recipe]:
        shipped = load_recipe(name)
        kind = shipped.audio_encoder.kind
        free = shipped.speech_encoder.quantization == "none"  # encoders in 8 bits stay as they are
        audio: dict[str, Any] = (
            {"kind": "none"} if kind == "none" else {"path": None, "config": AUDIO[kind], "train": free}
        )
        values = {
            "base": name,
            "checkpoint": None,
            "audio": {"pad": "clip"},  # fifteen times less to encode than the recipes' 30 s, which golden systems test
            "speech_encoder": {"path": None, "config": tiny["speech_encoder"]["config"], "train": free},
            "audio_encoder": audio,
            "connector": tiny["connector"] if shipped.connector.kind == "qformer" else {"hidden_size": 64},
            "decoder": {"path": str(tiny_decoder(shipped)), "bos_token": None, "tokenizer": None},
            "data": tiny["data"],
            "train": {
                **{"steps": 20, "batch_size": 4, "learning_rate": 3e-3, "minimum_rate": 1e-3, "warmup_steps": 2},
                **{"validate_every": 20, "workers": 0, "save_every": 20, "init": None, "augment": {"speed": 0}},
            },
            "generate": {"beams": 2, "max_new_tokens": 3},
        }
        path = tmp_path / f"{name}.yaml"  # of the same name: `base` still means the shipped one
        path.write_text(yaml.safe_dump(values))
        return path, shipped

    return write


def structure(recipe: Recipe) -> tuple[object, ...]:
    """What tells one recipe from another once their parts are tiny."""
    decoder, audio = recipe.decoder, recipe.audio_encoder
    family = next(family for family in FAMILIES if family.lower() in (decoder.path or "").split("/")[-1].lower())
    quantizations = recipe.speech_encoder.quantization, audio.quantization, decoder.quantization
    lora = None if recipe.lora is None else tuple(recipe.lora.targets)
    alone = recipe.train.decoder_weight == 0
    return family, audio.kind, recipe.connector.kind, quantizations, lora, alone, decoder.tokenizer is None


UNLIKE = list({structure(load_recipe(name)): name for name in reversed(SEEDS)}.values())


@pytest.mark.parametrize("name", UNLIKE)
def test_a_recipe_trains_and_infers_at_a_tiny_size(
    name: str,
    made_tiny: Callable[[str], tuple[Path, Recipe]],
    clips: Path,
    tmp_path: Path,
    nota: Callable[..., int],
) -> None:
    recipe, shipped = made_tiny(name)
    folder, out = tmp_path / "trained", tmp_path / "out.csv"
    torch.manual_seed(0)
    before = validate(build(load_recipe(str(recipe))))["validation_loss"]
    assert nota("train", recipe, "--out", folder) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["steps"] == 20
    if shipped.train.decoder_weight:  # else the connector learns by another loss, and the decoder's is not its aim
        assert metrics["validation_loss"] < before - 0.3
    data = ["--annotation", clips / "all.json", "--out", out]
    assert nota("infer", "--checkpoint", folder, *data, "--set", "generate.batch_size=2") == 0
    with out.open(newline="") as file:
        assert [row["testset_id"] for row in csv.DictReader(file)] == [f"test{index:04d}" for index in range(5)]
    again = load_recipe(str(folder))
    assert again.decoder.quantization == shipped.decoder.quantization
    assert again.lora == shipped.lora


@pytest.mark.parametrize("name", ["gemma2-2b-gptq", "llama3.2-1b-bnb4", "qlora-3b", "salmonn-3b"])
def test_gradients_pass_through_the_decoder_to_projection_and_q_former(
    name: str, made_tiny: Callable[[str], tuple[Path, Recipe]], clips: Path
) -> None:
    from nota_cli.data.annotation import read_annotation
    from nota_cli.data.row_batches import RowBatches

    model = build(load_recipe(str(made_tiny(name)[0])), purpose="train")
    batch = RowBatches(read_annotation(clips / "all.json"), [[0, 1]], clips, model.preprocessor())[0]
    loss, _ = model(batch.features, batch.queries, batch.texts)
    loss.backward()
    reached = {key: float(value.grad.abs().sum()) for key, value in model.named_parameters() if value.grad is not None}
    for part in (
        "connector.speech_llama_proj.weight",
        "connector.speech_query_tokens",
        "crossattention.self.query.weight",
    ):
        assert any(part in key and size > 0 for key, size in reached.items()), part
    assert any("lora_B" in key and size > 0 for key, size in reached.items())
    assert not any("base_layer" in key or "embed_tokens" in key for key in reached)
