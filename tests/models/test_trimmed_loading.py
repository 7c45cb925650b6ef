"""A full decoder beside a trimmed tokenizer is cut as it is loaded, to what `nota prune-vocabulary` would write."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from nota_cli.compression.vocabulary import prune_vocabulary
from nota_cli.data.tokenizer import build_word_tokenizer
from nota_cli.errors import CheckpointError
from nota_cli.models.build import build
from nota_cli.models.checkpoint import save_checkpoint
from nota_cli.models.decoders.decoder import Decoder, load_decoder
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.schema import Decoder as DecoderSpec

WORDS = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "dog",
    "rain",
    "falls",
    "outside",
]
CORPUS = ["one three seven", "rain falls"]
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
HEADS = {"head_dim": 8, "query_pre_attn_scalar": 8, "num_key_value_heads": 1}
FAMILIES = {
    "gemma3_text": {**HEADS, "tie_word_embeddings": True},
    "gemma2": {**HEADS, "tie_word_embeddings": False},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": False},
}


def full_folder(folder: Path, family: str) -> Path:
    """A decoder with some rows beyond its tokens, as published ones have."""
    tokenizer = build_word_tokenizer(WORDS, folder)
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SIZES, **FAMILIES[family], **ids, vocab_size=len(tokenizer) + 5)
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = [ids["eos_token_id"], ids["pad_token_id"]]
    model.generation_config.suppress_tokens = [ids["bos_token_id"], len(tokenizer) + 4]
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The full decoder, the trimmed one, and a folder with the trimmed tokenizer alone."""
    root = tmp_path_factory.mktemp(request.param)
    full = full_folder(root / "full", request.param)
    prune_vocabulary(full, root / "small", CORPUS)
    (root / "tokenizer").mkdir()
    for file in (root / "small").iterdir():
        if "token" in file.name or file.name == "vocabulary.json":
            shutil.copy(file, root / "tokenizer")
    assert not (root / "tokenizer" / "config.json").exists()
    return full, root / "small", root / "tokenizer"


def cut(full: Path, tokenizer: Path, **changes: object) -> Decoder:
    return load_decoder(DecoderSpec(path=str(full), tokenizer=str(tokenizer), **changes)).eval()


def settings(model: torch.nn.Module) -> list[dict[str, object]]:
    kept = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens")
    return [{key: getattr(config, key, None) for key in kept} for config in (model.config, model.generation_config)]


@torch.inference_mode()
def test_it_is_what_the_command_writes(folders: tuple[Path, Path, Path]) -> None:
    full, small, tokenizer = folders
    expected, found = load_decoder(DecoderSpec(path=str(small))).eval(), cut(full, tokenizer)
    whole = load_decoder(DecoderSpec(path=str(full)))
    rows = expected.base.get_input_embeddings().weight.size(0)
    assert rows == len(expected.tokenizer) < whole.base.get_input_embeddings().weight.size(0)
    weights = expected.base.state_dict()
    assert weights.keys() == found.base.state_dict().keys()
    for name, tensor in found.base.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert settings(found.base) == settings(expected.base)
    assert found.end_ids == expected.end_ids
    assert found.base.get_input_embeddings().padding_idx == expected.base.get_input_embeddings().padding_idx
    for text in (*CORPUS, "three rain seven"):
        ids = found.token_ids(text)
        assert ids == expected.token_ids(text)
        answers = [
            decoder.base.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)
            for decoder in (found, expected)
        ]
        assert torch.equal(*answers)


def test_a_decoder_that_was_trimmed_by_the_same_is_left_alone(folders: tuple[Path, Path, Path]) -> None:
    _, small, tokenizer = folders
    again = cut(small, tokenizer).base.state_dict()
    assert all(
        torch.equal(again[name], tensor)
        for name, tensor in load_decoder(DecoderSpec(path=str(small))).base.state_dict().items()
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "not a file that `nota prune-vocabulary` wrote"),
        ("[]", "not a file that `nota prune-vocabulary` wrote"),
        ('{"vocab_size": 9}', "not a file that `nota prune-vocabulary` wrote"),
        ('{"vocab_size": 9, "old_ids": null}', "not a file that `nota prune-vocabulary` wrote"),
        ('{"vocab_size": 9999, "old_ids": [1, 2]}', "made for a decoder of 9,999 tokens"),
        ('{"vocab_size": ROWS, "old_ids": [0, null]}', "no row for"),
        ('{"vocab_size": ROWS, "old_ids": [0, 4000]}', "4000 is no row of a decoder"),
        ('{"vocab_size": ROWS, "old_ids": [0, -1]}', "-1 is no row of a decoder"),
        ('{"vocab_size": ROWS, "old_ids": [0, "a"]}', "'a' is no row of a decoder"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused_by_name(
    content: str, message: str, folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    full, _, tokenizer = folders
    rows = json.loads((full / "config.json").read_text())["vocab_size"]
    shutil.copytree(tokenizer, tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "vocabulary.json").write_text(content.replace("ROWS", str(rows)))
    with pytest.raises(CheckpointError, match=message) as refused:
        cut(full, tmp_path / "tokenizer")
    assert str(tmp_path / "tokenizer" / "vocabulary.json") in str(refused.value)


def test_dummy_weights_have_the_trimmed_size(folders: tuple[Path, Path, Path]) -> None:
    full, small, tokenizer = folders
    spec = DecoderSpec(path=str(full), tokenizer=str(tokenizer))
    sizes = {
        name: tensor.shape for name, tensor in load_decoder(DecoderSpec(path=str(small))).base.state_dict().items()
    }
    dummy = load_decoder(spec, "meta", load_format="dummy").base.state_dict()
    assert {name: tensor.shape for name, tensor in dummy.items()} == sizes


def system(full: Path, tokenizer: Path) -> list[str]:
    return [f"decoder.path={full}", "decoder.config=null", f"decoder.tokenizer={tokenizer}", "decoder.train=false"]


def test_a_checkpoint_brings_its_trimmed_tokenizer(
    tiny_recipe: Path, folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    full, _, tokenizer = folders
    lora = "lora={rank: 2, targets: [q_proj]}"
    recipe = load_recipe(str(tiny_recipe), [*system(full, tokenizer), lora])
    model = build(recipe)
    model.save_pretrained(tmp_path / "saved")
    kept = tmp_path / "saved" / "tokenizer"
    assert (kept / "vocabulary.json").read_bytes() == (tokenizer / "vocabulary.json").read_bytes()
    assert (kept / "tokenizer.json").read_bytes() == (tokenizer / "tokenizer.json").read_bytes()
    assert not (tmp_path / "saved" / "decoder").exists()  # it is published elsewhere
    moved = tmp_path / "moved"
    (tmp_path / "saved").rename(moved)
    loaded = load_recipe(str(moved))
    assert loaded.decoder.tokenizer == str(moved / "tokenizer")
    again = build(loaded.model_copy(update={"checkpoint": str(moved)}))
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_halves_what_is_saved_and_loads(
    dtype: str, tiny_recipe: Path, folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    full, _, tokenizer = folders
    lora = "lora={rank: 2, targets: [q_proj]}"
    recipe = load_recipe(str(tiny_recipe), [*system(full, tokenizer), lora])
    torch.manual_seed(1)
    model = build(recipe)
    save_checkpoint(model, tmp_path / "whole")
    save_checkpoint(model, tmp_path / "half", getattr(torch, dtype))
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        sizes = [(tmp_path / kind / name).stat().st_size for kind in ("half", "whole")]
        header = 40_000  # at most: names and places
        assert sizes[0] - header < sizes[1] / 2 < sizes[0]
    again = build(load_recipe(str(tmp_path / "half")).model_copy(update={"checkpoint": str(tmp_path / "half")}))
    for name, tensor in model.state_dict().items():
        found = again.state_dict()[name]
        assert found.dtype == tensor.dtype
        rounded = name.startswith("decoder.") and "lora_" not in name
        expected = tensor if rounded or tensor.dtype != torch.float32 else tensor.to(getattr(torch, dtype)).float()
        assert torch.equal(found, expected), name
