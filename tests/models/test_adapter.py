"""An adapter's own config decides how it is scaled; what nota cannot run is refused with file and key."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.networks import load_network
from helpers.paths import SHIPPED
from nota_cli.compression.merge import _read_deltas
from nota_cli.errors import CheckpointError, RecipeError
from nota_cli.models.adapter import read_config
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.recipe.load import load_recipe

V1 = "model.layers.1.self_attn.v_proj"


def copy(tmp_path: Path, **values: Any) -> Path:
    folder = shutil.copytree(SHIPPED, tmp_path / "copy", ignore=shutil.ignore_patterns("samples"))
    file = folder / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return folder


def scales(model: Salmonn) -> dict[str, float]:
    layers = model.decoder.base.named_modules()
    return {name: layer.scaling["default"] for name, layer in layers if hasattr(layer, "lora_A")}


@pytest.mark.parametrize(
    ("values", "common", "special"),
    [
        ({"lora_alpha": 64, "use_rslora": True}, 64 / math.sqrt(8), None),
        ({"lora_alpha": 16}, 2.0, None),
        ({"use_rslora": True}, 32 / math.sqrt(8), None),
        ({"alpha_pattern": {"layers.1.self_attn.v_proj": 8}}, 4.0, 1.0),
        ({"alpha_pattern": {r".*\.1\.self_attn\.v_proj": 4}, "use_rslora": True}, 32 / math.sqrt(8), 4 / math.sqrt(8)),
    ],
)
def test_its_own_scale_is_used_and_mentioned(
    values: dict[str, Any], common: float, special: float | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy(tmp_path, **values)
    model = load_network(folder)
    message = capsys.readouterr().err
    assert "adapter_config.json says otherwise than the recipe and is used" in message
    assert all(key in message for key in values)
    found = scales(model)
    assert len(found) == 6
    for name, scale in found.items():
        assert scale == pytest.approx(special if special is not None and name == V1 else common), name
    for weight, (_, _, scale) in _read_deltas(folder / "adapter", load_recipe(str(folder))).items():
        assert scale == pytest.approx(found[weight.removesuffix(".weight")]), weight  # what nota merge-lora merges
    model.save_pretrained(tmp_path / "again")
    assert scales(load_network(tmp_path / "again")) == found


def test_ranks_of_single_layers_are_used(tmp_path: Path) -> None:
    folder = copy(tmp_path, rank_pattern={V1: 2})
    file = folder / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    prefix = f"base_model.model.{V1}."
    weights[f"{prefix}lora_A.weight"] = weights[f"{prefix}lora_A.weight"][:2].contiguous()
    weights[f"{prefix}lora_B.weight"] = weights[f"{prefix}lora_B.weight"][:, :2].contiguous()
    save_file(weights, file)
    assert scales(load_network(folder))[V1] == 16.0


def test_the_shipped_adapter_says_what_its_recipe_says(capsys: pytest.CaptureFixture[str]) -> None:
    load_network(SHIPPED)
    assert "adapter_config" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", 4),
        ("r", 0),
        ("lora_alpha", "64"),
        ("bias", "all"),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("peft_type", "LOHA"),
        ("init_lora_weights", "pissa"),
        ("trainable_token_indices", [3]),
        ("layer_replication", [[0, 2]]),
        ("some_new_setting", {"a": 1}),
        ("rank_pattern", {V1: -1}),
    ],
)
def test_what_cannot_be_run_is_refused_with_file_and_key(key: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"adapter_config\.json: {key} "):
        load_network(copy(tmp_path, **{key: value}))


def test_targets_that_the_weights_do_not_have_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"missing: decoder\.model\..*k_proj\.lora_A"):
        load_network(copy(tmp_path, target_modules=["q_proj", "v_proj", "k_proj"]))


def test_dora_and_its_like_are_not_merged(tmp_path: Path) -> None:
    for key in ("use_dora", "fan_in_fan_out"):
        folder = copy(tmp_path, **{key: True})
        with pytest.raises(RecipeError, match=rf"adapter_config\.json: {key} is true"):
            _read_deltas(folder / "adapter", load_recipe(str(folder)))
        shutil.rmtree(folder)


def test_another_base_is_mentioned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from nota_cli.models.adapter import adopt

    config = read_config(copy(tmp_path, base_model_name_or_path="org/Other-3B") / "adapter")
    assert config is not None
    adopt(load_recipe("gemma2-2b-gptq"), config)
    assert "base_model_name_or_path is org/Other-3B" in capsys.readouterr().err


def test_weights_of_another_scale_are_not_loaded_into_a_model_that_is_built_already(tmp_path: Path) -> None:
    from nota_cli.models.checkpoint import load_checkpoint

    model = load_network(SHIPPED)
    before = {name: value.clone() for name, value in model.state_dict().items() if "lora_" in name}
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: r 8, lora_alpha 64"):
        load_checkpoint(model, copy(tmp_path, lora_alpha=64))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("pattern", [{V1: 8}, {r".*\.1\.self_attn\.v_proj": 8}])
def test_layers_keep_their_own_scale_when_others_are_dropped(pattern: dict[str, int], tmp_path: Path) -> None:
    from nota_cli.compression.layers import prune_layers

    prune_layers(copy(tmp_path, alpha_pattern=pattern), tmp_path / "out", {"decoder": [1, 2]})
    found = scales(load_network(tmp_path / "out"))
    assert found == {name: 1.0 if name == "model.layers.0.self_attn.v_proj" else 4.0 for name in found}
    assert len(found) == 4
