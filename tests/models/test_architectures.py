"""Every architecture that ships builds the published model: on the meta device, by the number of its parameters."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import nota_cli.models.decoders.llama_moe  # noqa: F401  # makes its model type known
from helpers.recipes import SALMONN
from nota_cli.errors import CheckpointError, RecipeError
from nota_cli.models.architectures import architecture, names
from nota_cli.recipe.load import load_recipe

# Published counts (hub's safetensors metadata, papers and model cards), without what nota does not build.
PUBLISHED = {
    "whisper-large-v2": 637e6,  # the encoder
    "whisper-large-v3-turbo": 637e6,  # the encoder
    "salmonn_7b-whisper": 637e6,  # the encoder
    "whisper-tiny.en": 8_208_384,  # the encoder
    "whisper-base": 20_590_592,  # the encoder
    "beats_iter3_plus_as2m_finetuned_on_as2m_cpt2": 90e6,
    "beats_iter3_plus_as20k_finetuned_on_as2m_cpt2": 90e6,
    "ced-tiny": 5.5e6,
    "ced-mini": 9.6e6,
    "ced-small": 22e6,
    "ced-base": 86e6,
    "eat-base_epoch30_finetune_as2m": 85.3e6,  # ViT-B without a head
    "vicuna-7b-v1.5": 6_738_415_616,
    "salmonn_7b-vicuna": 6_738_415_616,
    "vicuna-13b-v1.1": 13_015_864_320,
    "llama-3.2-1b-instruct": 1_235_814_400,
    "llama-3.2-1b-instruct-bnb-4bit": 1_235_814_400,
    "llama-3.2-3b-instruct": 3_212_749_824,
    "llama-3.2-3b-instruct-bnb-4bit": 3_212_749_824,
    "llama-3.1-8b-instruct": 8_030_261_248,
    "meta-llama-3.1-8b-instruct-bnb-4bit": 8_030_261_248,
    "gemma-2-2b-it": 2_614_341_888,
    "gemma-2-2b-it-gptq": 2_614_341_888,
    "gemma-2-2b-it-4bit-gptq": 2_614_341_888,
    "gemma-3-270m": 268_098_176,
    "qwen2.5-0.5b-instruct": 494_032_768,
    "deepseek-r1-distill-qwen-1.5b": 1_777_088_000,
    "llama-moe-v1-3_5b-2_8": 6.7e9,  # all experts
    "llama-moe-v1-3_0b-2_16": 6.7e9,
    # after trimming: less one row of the embedding for each token that went
    "gemma2-2b-gptq-32k": 2_614_341_888 - (256_000 - 32_768) * 2_304,
    "qwen2.5-0.5b-32k": 494_032_768 - (151_936 - 32_768) * 896,
    "llama3.2-1b-bnb4-32k": 1_235_814_400 - (128_256 - 32_768) * 2_048,
}
ENCODERS = {
    "beats": ("BeatsConfig", "BeatsEncoder"),
    "ced": ("CedConfig", "CedEncoder"),
    "eat": ("EatConfig", "EatEncoder"),
}


def built(kind: str, values: dict[str, Any]) -> nn.Module:
    """The model on the meta device; encoders refuse keys that they do not know."""
    values = {key: value for key, value in values.items() if key != "quantization_config"}
    with torch.device("meta"):
        if kind == "decoder":
            return AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
        module = importlib.import_module(f"nota_cli.models.encoders.{kind}")
        if kind == "whisper":
            return module.WhisperEncoder(module.WhisperConfig(**values))
        config, encoder = (getattr(module, name) for name in ENCODERS[kind])
        return encoder(config.from_dict(values))


def count(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def test_every_file_is_counted_here() -> None:
    assert set(names()) == set(PUBLISHED)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_count_is_the_published_one(name: str) -> None:
    known = architecture(name)
    assert set(known) <= {"source", "kind", "parameters", "config", "comment"}
    parameters = count(built(known["kind"], known["config"]))
    exact = PUBLISHED[name] == int(PUBLISHED[name]) and PUBLISHED[name] % 1000
    assert parameters == (PUBLISHED[name] if exact else pytest.approx(PUBLISHED[name], rel=0.03))
    if known["parameters"] is not None:
        assert known["parameters"] == PUBLISHED[name]


@pytest.mark.parametrize("name", [name for name in names() if architecture(name)["kind"] in ("whisper", "decoder")])
def test_transformers_knows_every_value(name: str) -> None:
    """It takes any key without a word; a misspelt one would leave its default in force."""
    values = {key: value for key, value in architecture(name)["config"].items() if key != "quantization_config"}
    config = AutoConfig.for_model(**{"model_type": "whisper", **values})
    assert set(values) <= set(type(config)().to_dict())
    for key, value in values.items():
        if key != "sliding_window" or config.model_type != "qwen2":  # its own config sets it aside while unused
            assert getattr(config, key) == value, key


def test_llama_3_positions_are_stretched() -> None:
    config = AutoConfig.for_model(**architecture("meta-llama/Llama-3.2-1B-Instruct")["config"])
    model = AutoModelForCausalLM.from_config(
        type(config)(**{**config.to_dict(), "num_hidden_layers": 1, "vocab_size": 8, "pad_token_id": None})
    )
    frequencies = model.model.rotary_emb.inv_freq
    plain = 500_000.0 ** -(torch.arange(0, 64, 2) / 64)
    assert torch.allclose(frequencies[:4], plain[:4])  # short wavelengths as they are
    assert torch.allclose(frequencies[-4:], plain[-4:] / 32)  # long ones 32 times longer


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("openai/whisper-large-v3-turbo", "openai/whisper-large-v3-turbo"),
        ("OpenAI/Whisper-Large-V3-Turbo", "openai/whisper-large-v3-turbo"),
        (
            "weights/BEATs_iter3_plus_AS20K_finetuned_on_AS2M_cpt2.pt",
            "BEATs_iter3_plus_AS20K_finetuned_on_AS2M_cpt2.pt",
        ),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"),
        ("/data/models/gemma-2-2b-it-GPTQ/", "shuyuej/gemma-2-2b-it-GPTQ"),
    ],
)
def test_the_last_component_of_a_path_finds_it(path: str, source: str) -> None:
    assert architecture(path)["source"] == source


@pytest.mark.parametrize("recipe", SALMONN)
def test_every_shipped_recipe_has_its_architectures(recipe: str) -> None:
    system = load_recipe(recipe)
    parts = [("whisper", system.speech_encoder), (system.audio_encoder.kind, system.audio_encoder)]
    for kind, part in [*parts, ("decoder", system.decoder)]:
        if part.path is not None:
            assert architecture(part.path)["kind"] == kind


def test_same_as_takes_the_others_values_and_lays_its_own_over_them() -> None:
    base, packed = architecture("llama-3.2-1b-instruct"), architecture("llama-3.2-1b-instruct-bnb-4bit")
    assert packed["config"]["hidden_size"] == base["config"]["hidden_size"] == 2048
    assert packed["config"]["quantization_config"]["bnb_4bit_quant_type"] == "nf4"
    assert (packed["config"]["pad_token_id"], base["config"].get("pad_token_id")) == (128004, None)
    assert packed["source"] == "unsloth/Llama-3.2-1B-Instruct-bnb-4bit"
    assert packed["kind"] == "decoder"
    assert "same_as" not in packed
    assert architecture("gemma-2-2b-it-gptq")["config"]["quantization_config"]["bits"] == 4


def test_an_unknown_name_is_told_the_near_ones() -> None:
    with pytest.raises(RecipeError) as caught:
        architecture("someone/Qwen2.5-0.5B-instruct-v2")
    assert "configs/architectures/qwen2.5-0.5b-instruct-v2.json" in str(caught.value)
    assert "config.json" in str(caught.value)
    assert "Near: qwen2.5-0.5b-instruct" in str(caught.value)
    with pytest.raises(RecipeError, match=r"Known: .*whisper-large-v3-turbo"):
        architecture("zzz")


def test_a_local_folder_speaks_for_itself(tmp_path: Path) -> None:
    folder = tmp_path / "gemma-2-2b-it"  # its name does not count
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8}))
    assert architecture(str(folder)) == {
        "source": str(folder),
        "kind": "decoder",
        "parameters": None,
        "config": {"model_type": "llama", "hidden_size": 8},
    }
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper"}))
    assert architecture(str(folder))["kind"] == "whisper"
    for damaged in ("{", "[1]"):
        (folder / "config.json").write_text(damaged)
        with pytest.raises(CheckpointError, match="config.json"):
            architecture(str(folder))
