"""What a GPTQ folder says about its weights is used on every kernel or refused with file and key."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.paths import SHIPPED
from nota_cli.errors import CheckpointError, RecipeError
from nota_cli.quantization import gptq
from nota_cli.quantization.gptq_format import read_settings
from nota_cli.quantization.weight_only import repack_gptq

SHIPPED = SHIPPED / "decoder"
BOTH = ("config.json", "quantize_config.json")
Change = Callable[[str, Tensor], Tensor]


def folder_with(
    target: Path, values: dict[str, Any] | None = None, change: Change | None = None, files: tuple[str, ...] = BOTH
) -> Path:
    """The shipped decoder with other words in its files and other weights."""
    shutil.copytree(SHIPPED, target)
    for name in files:
        content = json.loads((target / name).read_text())
        (content["quantization_config"] if name == BOTH[0] else content).update(values or {})
        (target / name).write_text(json.dumps(content))
    if change is not None:
        weights = {name: change(name, value) for name, value in load_file(target / "model.safetensors").items()}
        save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def codes(words: Tensor) -> Tensor:
    """int32 `[groups, n]` to zero points `[groups, 8 n]`."""
    return ((words[:, :, None] >> torch.arange(0, 32, 4)) & 15).flatten(1)


def packed(values: Tensor) -> Tensor:
    words = torch.zeros(len(values), values.shape[1] // 8, dtype=torch.int32)
    for place in range(8):
        words |= values[:, place::8].int() << (4 * place)
    return words


def one_more(name: str, value: Tensor) -> Tensor:
    """Zero points as the second format holds them."""
    return packed((codes(value) + 1) & 15) if name.endswith("qzeros") else value


def uneven(name: str, value: Tensor) -> Tensor:
    """Zero points that differ from group to group, as asymmetric quantization has them."""
    return packed((codes(value) + torch.arange(len(value))[:, None] % 3 - 1) & 15) if name.endswith("qzeros") else value


def reversed_groups(name: str, value: Tensor) -> Tensor:
    return value.flip(0).contiguous() if name.endswith("g_idx") else value


@torch.no_grad()
def logits(folder: Path, kernel: str) -> Tensor:
    loadable = "auto" if kernel in ("blockwise", "int4pack") else kernel
    model = gptq.load_gptq_decoder(folder, loadable)
    if loadable != kernel:
        assert repack_gptq(model, kernel) == 21
    return model(input_ids=torch.arange(3, 40)[None]).logits


CASES = {
    "gptq": ({}, None),
    "gptq_v2": ({"checkpoint_format": "gptq_v2"}, one_more),
    "asymmetric": ({"sym": False}, uneven),
    "asymmetric, v2": ({"sym": False, "checkpoint_format": "gptq_v2"}, uneven),
    "groups out of order": ({"desc_act": True}, reversed_groups),
    "out of order, not said": ({}, reversed_groups),
}


@pytest.mark.parametrize("case", CASES)
def test_every_kernel_gives_what_the_definition_gives(case: str, tmp_path: Path) -> None:
    values, change = CASES[case]
    folder = folder_with(tmp_path / "decoder", values, change)
    less = 0 if values.get("checkpoint_format") == "gptq_v2" else 1
    tensors = load_file(folder / "model.safetensors")
    model = gptq.load_gptq_decoder(folder)
    for name in [key.removesuffix(".qweight") for key in tensors if key.endswith(".qweight")]:
        words, zeros, scales, groups = (tensors[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales", "g_idx"))
        stored = ((words[:, None, :] >> torch.arange(0, 32, 4)[:, None]) & 15).reshape(-1, words.shape[1])
        weight = scales.float()[groups] * (stored - ((codes(zeros) + less) & 15)[groups])
        layer = torch.nn.Linear(*weight.shape, bias=False)
        layer.weight.data = weight.T.contiguous()
        model.set_submodule(name, layer)
    with torch.no_grad():
        expected = model(input_ids=torch.arange(3, 40)[None]).logits
    kernels = ["torch", "blockwise", "int4pack"] + (["torch_fused"] if values.get("sym", True) else [])
    for kernel in kernels:
        loose = kernel in ("int4pack", "torch_fused")  # bfloat16
        torch.testing.assert_close(logits(folder, kernel), expected, atol=1.5 if loose else 1e-3, rtol=0)
        assert (logits(folder, kernel) - expected).abs().mean() < (0.1 if loose else 1e-4), kernel


def test_a_kernel_that_knows_symmetric_weights_only_is_refused_for_others(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "decoder", {"sym": False}, uneven)
    with pytest.raises(RecipeError, match=r"torch_fused.*symmetric weights only.*sym is false in .*config\.json"):
        gptq.load_gptq_decoder(folder, "torch_fused")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"checkpoint_format": "marlin"},
            "checkpoint_format is 'marlin', but nota reads gptq and",
        ),
        ({"checkpoint_format": "bitblas"}, "checkpoint_format is 'bitblas'"),
        ({"is_marlin_format": True}, "is_marlin_format is True"),
        ({"bits": 8}, "bits is 8, but the weights are stored with 4"),
        ({"bits": 5}, "bits is 5, not one of"),
        ({"group_size": 64}, "group_size is 64, but the weights are stored with 32"),
        ({"group_size": -1}, "group_size is -1, but the weights are stored with 32"),
        ({"group_size": 0}, "group_size is 0, not a number"),
        ({"sym": "yes"}, "sym is 'yes', not true or false"),
        ({"lm_head": True}, "lm_head is True"),
        ({"dynamic": {"+:.*q_proj": {"bits": 8}}}, "dynamic is .* has its own bits"),
        ({"rotation": "hadamard"}, "rotation is 'hadamard'"),
        ({"checkpoint_format": "gptq_v2"}, "checkpoint_format is 'gptq_v2', but the zero points are those of gptq"),
    ],
)
def test_words_that_contradict_the_weights_or_are_unknown_are_refused(
    values: dict[str, Any], says: str, tmp_path: Path
) -> None:
    folder = folder_with(tmp_path / "decoder", values)
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{says}"):
        gptq.load_gptq_decoder(folder)


def test_zero_points_of_another_kind_than_stated_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"checkpoint_format is 'gptq', but the zero points are those of gptq_v2"):
        gptq.load_gptq_decoder(folder_with(tmp_path / "v2", {}, one_more))
    with pytest.raises(CheckpointError, match=r"sym is true, but zero points in .*qzeros are not 8"):
        gptq.load_gptq_decoder(folder_with(tmp_path / "uneven", {}, uneven))
    with pytest.raises(CheckpointError, match=r"g_idx names groups .* but there are scales for"):
        gptq.load_gptq_decoder(
            folder_with(tmp_path / "range", {}, lambda name, value: value + 9 if name.endswith("g_idx") else value)
        )


@pytest.mark.parametrize("key", ["checkpoint_format", "bits", "group_size", "sym"])
def test_two_files_that_contradict_each_other_are_refused(key: str, tmp_path: Path) -> None:
    other = {"checkpoint_format": "gptq_v2", "bits": 8, "group_size": 128, "sym": False}[key]
    folder = folder_with(tmp_path / "decoder", {key: other}, files=BOTH[1:])
    with pytest.raises(CheckpointError, match=rf"{key} is .* in config\.json.* and {other!r} in quantize_config"):
        gptq.load_gptq_decoder(folder)


def test_what_one_file_leaves_out_the_other_says(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "decoder", {"checkpoint_format": None, "format": "GPTQ_V2"}, one_more)
    content = json.loads((folder / BOTH[0]).read_text())
    content["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / BOTH[0]).write_text(json.dumps(content))
    settings = read_settings(folder)
    assert settings is not None
    assert (settings.group_size, settings.checkpoint_format, settings.sym) == (32, "gptq_v2", True)
    torch.testing.assert_close(logits(folder, "blockwise"), logits(SHIPPED, "torch"), atol=1e-3, rtol=0)


def test_layers_that_were_left_unquantized_are_told_by_the_file(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj"
    plain = gptq.load_gptq_decoder(SHIPPED).get_submodule(name).dequantize_weight().T.float().contiguous()
    folder = folder_with(tmp_path / "decoder", {"dynamic": {f"-:{name}": {}}})
    tensors = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in tensors.items() if not key.startswith(f"{name}.")}
    save_file({**kept, f"{name}.weight": plain}, folder / "model.safetensors", metadata={"format": "pt"})
    model = gptq.load_gptq_decoder(folder)
    assert gptq.count_quantized(model)["quantized"] == 20
    with torch.no_grad():
        found = model(input_ids=torch.arange(3, 40)[None]).logits
    torch.testing.assert_close(found, logits(SHIPPED, "torch"), atol=1e-3, rtol=0)


def test_another_method_is_named(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "decoder", {"quant_method": "awq"}, files=BOTH[:1])
    (folder / BOTH[1]).unlink()
    with pytest.raises(CheckpointError, match="it is 'awq' there"):
        gptq.load_gptq_decoder(folder)
