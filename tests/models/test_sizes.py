"""Sizes by arithmetic are what counting the tensors of a built model gives."""

import subprocess
import sys
from dataclasses import fields

import pytest

from helpers.recipes import SALMONN
from nota_cli.models.build import build
from nota_cli.models.encoders.beats import BeatsConfig
from nota_cli.models.encoders.ced import CedConfig
from nota_cli.models.encoders.eat import EatConfig
from nota_cli.models.sizes import DEFAULTS, part_sizes
from nota_cli.recipe.load import load_recipe


def counted(recipe):
    return {part.name: (part.parameters, part.by_type) for part in build(recipe, "meta", load_format="dummy").parts()}


def computed(recipe):
    return {part.name: (part.parameters, dict(part.by_type)) for part in part_sizes(recipe)}


@pytest.mark.parametrize("name", SALMONN)
def test_every_shipped_recipe(name):
    recipe = load_recipe(name)
    if recipe.decoder.quantization == "nf4":
        pytest.importorskip("bitsandbytes")
    assert computed(recipe) == counted(recipe)


@pytest.mark.parametrize(
    "settings",
    [
        ["audio_encoder={kind: none, config: null}"],
        ["speech_encoder.quantization=int4", "audio_encoder.quantization=int8", "speech_encoder.dtype=bfloat16"],
        ["audio_encoder={kind: ced, config: null, path: mispeech/ced-tiny, quantization: int4}"],
        ["audio_encoder={kind: eat, config: null, path: worstchan/EAT-base_epoch30_finetune_AS2M, dtype: float16}"],
        ["decoder={path: meta-llama/Llama-3.2-1B-Instruct, config: null, dtype: bfloat16}", "lora.targets=[up_proj]"],
        ["decoder.dtype=bfloat16", "lora.rank=3", "connector={queries: 3, layers: 1}"],
        ["connector={summary: 2, quantization: int8}"],
        ["connector={kind: stack_mlp, stack: 4, hidden_size: 256, quantization: int4}"],
    ],
)
def test_changed_recipes(settings):
    merged = load_recipe("tiny", settings)
    audio = merged.audio_encoder
    if audio.kind in ("ced", "eat"):
        merged = merged.model_copy(update={"audio_encoder": audio.model_copy(update={"config": None})})
    assert computed(merged) == counted(merged)


@pytest.mark.parametrize(("kind", "config"), [("beats", BeatsConfig), ("ced", CedConfig), ("eat", EatConfig)])
def test_defaults_are_the_encoders_own(kind, config):
    own = {field.name: field.default for field in fields(config)}
    assert DEFAULTS[kind] == {key: own[key] for key in DEFAULTS[kind]}


def test_listing_imports_no_model_code(tmp_path):
    code = (
        "import sys; from nota_cli.cli.recipes import list_recipes; rows = list_recipes(); "
        "assert all(row['GB'] != '?' for row in rows); "
        "sys.exit(bool({'torch', 'transformers', 'bitsandbytes', 'gptqmodel'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
