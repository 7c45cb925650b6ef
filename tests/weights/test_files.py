"""Files of weights as people have them: LFS pointers, NaN, wrappers and prefixes, each named or taken away."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.networks import load_network
from helpers.paths import SHIPPED
from nota_cli.errors import CheckpointError
from nota_cli.weights.files import is_finite, refuse_non_finite, weight_files
from nota_cli.weights.state_dicts import find_weights, plain_names

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 604128\n"
FILES = ("model.safetensors", "decoder/model.safetensors", "adapter/adapter_model.safetensors")
TEXTS = ("decoder/config.json", "decoder/tokenizer.json", "decoder/quantize_config.json", "adapter/adapter_config.json")


def copy(tmp_path: Path) -> Path:
    return shutil.copytree(SHIPPED, tmp_path / "copy", ignore=shutil.ignore_patterns("samples"))


@pytest.mark.parametrize("file", [*FILES, *TEXTS, "decoder/generation_config.json", "recipe.yaml"])
def test_a_pointer_in_the_place_of_any_file_is_named(file: str, tmp_path: Path) -> None:
    folder = copy(tmp_path)
    (folder / file).write_text(POINTER)
    with pytest.raises(Exception, match=rf"{file} is a Git LFS pointer.*git lfs pull"):
        load_network(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("file", "name"),
    [
        (FILES[0], "connector.speech_llama_proj.weight"),
        (FILES[0], "audio_encoder.encoder.layers.1.fc1.weight"),
        (FILES[1], "model.layers.2.mlp.down_proj.scales"),
        (FILES[1], "model.embed_tokens.weight"),
        (FILES[2], "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"),
    ],
)
def test_one_value_that_is_not_finite_is_refused_with_file_and_name(
    value: float, file: str, name: str, tmp_path: Path
) -> None:
    folder = copy(tmp_path)
    weights = load_file(folder / file)
    weights[name].view(-1)[-1] = value
    save_file(weights, folder / file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{file} holds weights that are NaN or infinite[\s\S]*{name}"):
        load_network(folder)


def test_large_finite_values_are_finite() -> None:
    """Their sum is not, in the type's own range."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        full = torch.full((3000,), torch.finfo(dtype).max, dtype=dtype)
        assert is_finite(full)
        full[7] = float("nan")
        assert not is_finite(full)
    assert is_finite(torch.tensor([1, 2]))
    assert is_finite(torch.zeros(0))
    assert not is_finite(torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn))
    with pytest.raises(CheckpointError, match=r"x\.pth holds[\s\S]*  - b$"):
        refuse_non_finite("x.pth", {"a": torch.ones(2), "b": torch.tensor([float("inf")]), "c": 3})


@pytest.mark.parametrize(
    ("wrapped", "words"),
    [
        (lambda state: {"model": state, "optimizer": {}, "epoch": 3}, ""),
        (lambda state: state, "a bare state dict"),
        (lambda state: {"state_dict": state, "epoch": 3}, "its entry state_dict"),
        (lambda state: {"model_state_dict": state}, "its entry model_state_dict"),
        (lambda state: {"module": state, "step": torch.tensor(3)}, "its entry module"),
        (lambda state: {"model": {"state_dict": state}}, "its entry model.state_dict"),
        (lambda state: {"teacher": state, "args": {"lr": 0.1}}, "its entry teacher"),
    ],
)
def test_weights_are_taken_out_of_their_wrapper(wrapped, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"a.weight": torch.ones(2)}
    assert find_weights(wrapped(state), "x.pth") == state
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("content", [{"epoch": 3}, [1], {}, {"a": {"w": torch.ones(1)}, "b": {"w": torch.ones(1)}}])
def test_what_holds_no_weights_lists_its_first_keys(content: object) -> None:
    with pytest.raises(CheckpointError, match=r"x\.pth has no `model` entry.*it holds"):
        find_weights(content, "x.pth")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "model.module.", "net."]
)
def test_prefixes_are_stripped_with_a_word(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    known = {"connector.a.weight": torch.ones(1), "decoder.b.weight": torch.ones(1)}
    assert plain_names({prefix + name: value for name, value in known.items()}, "x.pth", known) == known
    assert "stripped from the names" in capsys.readouterr().err


def test_prefixes_within_names_go_and_plain_names_stay(capsys: pytest.CaptureFixture[str]) -> None:
    plain = {"model.layers.0.q.weight": torch.ones(1), "module.b": torch.zeros(1)}
    assert plain_names(plain, "x.pth", plain) == plain
    assert not capsys.readouterr().err
    inner = {"model._orig_mod.layers.0.q.weight": torch.ones(1), "module.b": torch.zeros(1)}
    assert plain_names(inner, "x.pth", plain) == plain
    with pytest.raises(CheckpointError, match="is there twice"):
        plain_names({"a": torch.ones(1), "module.a": torch.ones(1)}, "x.pth", ())


@pytest.mark.parametrize(("file", "prefix"), [*((file, "_orig_mod.") for file in FILES), (FILES[0], "module.")])
def test_a_checkpoint_saved_under_compile_or_ddp_loads(file: str, prefix: str, tmp_path: Path) -> None:
    folder = copy(tmp_path)
    weights = {prefix + name: value for name, value in load_file(folder / file).items()}
    save_file(weights, folder / file, metadata={"format": "pt"})
    own, expected = load_network(folder).state_dict(), load_network(SHIPPED).state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[name], value) for name, value in expected.items())


def test_an_index_is_held_against_its_shards(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "one.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"two\.safetensors: missing, though model\.safetensors\.index\.json"):
        weight_files(tmp_path)
    save_file({"c": torch.ones(1)}, tmp_path / "two.safetensors")
    with pytest.raises(CheckpointError, match=r"not in two\.safetensors: b"):
        weight_files(tmp_path)
    for content in ({}, {"weight_map": []}, {"weight_map": {"a": 3}}):
        index.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match="no weight_map"):
            weight_files(tmp_path)


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"vocab_size": 120}, r"model\.embed_tokens\.weight \(\[98, 160\] in the file, \[120, 160\].*vocab_size 120"),
        ({"num_hidden_layers": 4, "layer_types": None}, "num_hidden_layers 4, but the weights end before layer 3"),
        ({"num_hidden_layers": 2, "layer_types": None}, "num_hidden_layers 2, but the weights go up to layer 2"),
        ({"tie_word_embeddings": False}, r"lm_head\.weight \(config\.json: tie_word_embeddings false\)"),
    ],
)
def test_a_config_that_contradicts_the_weights_is_named_by_its_field(
    values: dict[str, object], says: str, tmp_path: Path
) -> None:
    folder = copy(tmp_path)
    edit(folder / "decoder" / "config.json", **values)
    with pytest.raises(CheckpointError, match=says):
        load_network(folder)


def test_an_output_layer_beside_a_tied_config_and_a_foreign_tokenizer_are_refused(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    file = folder / FILES[1]
    whole = load_file(file)
    save_file({**whole, "lm_head.weight": torch.randn(98, 160)}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"tie_word_embeddings is true in config\.json, but"):
        load_network(folder)
    save_file(whole, file, metadata={"format": "pt"})
    tokenizer = json.loads((folder / "decoder" / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["surplus"] = 98
    (folder / "decoder" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match=r"99 tokens, the embedding .* 98 rows .*vocab_size.*'surplus'"):
        load_network(folder)


def test_a_recipe_that_contradicts_the_weights_is_named_by_its_field(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    recipe = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(recipe.replace("  intermediate_size: 384", "  intermediate_size: 512"))
    with pytest.raises(CheckpointError, match=r"shape of connector\..*\(connector\.intermediate_size 512\)"):
        load_network(folder)
