"""Why weights do not fit: every key by name, with the setting that asks for it."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from nota_cli.errors import CheckpointError
from nota_cli.weights.files import quantization_config
from nota_cli.weights.fit import refuse_misfits

CONFIG = LlamaConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, vocab_size=77)


def report(missing: Any = (), unexpected: Any = (), shapes: Any = ()) -> dict[str, Any]:
    return {"missing_keys": set(missing), "unexpected_keys": set(unexpected), "mismatched_keys": set(shapes)}


def test_weights_that_fit_are_taken() -> None:
    refuse_misfits("decoder here", CONFIG, report())


def test_every_problem_is_a_line_with_what_asks_for_it() -> None:
    wrong = report(["lm_head.weight"], ["model.odd"], [("model.norm.weight", (16,), (24,))])
    with pytest.raises(CheckpointError) as caught:
        refuse_misfits("decoder here", CONFIG, wrong, ["not packed: model.x"])
    assert str(caught.value).splitlines() == [
        "decoder here: the weights do not fit its config.json:",
        "  - missing: lm_head.weight (config.json: tie_word_embeddings false)",
        "  - unexpected: model.odd",
        "  - of another shape: model.norm.weight ([16] in the file, [24] expected (config.json: hidden_size 24))",
        "  - not packed: model.x",
    ]


@pytest.mark.parametrize(
    ("wrong", "note"),
    [
        (report(unexpected=["model.layers.3.mlp.x"]), "num_hidden_layers 2, but the weights go up to layer 3"),
        (report(missing=["model.layers.1.mlp.x"]), "num_hidden_layers 2, but the weights end before layer 1"),
    ],
)
def test_another_number_of_layers_is_named(wrong: dict[str, Any], note: str) -> None:
    with pytest.raises(CheckpointError, match=note):
        refuse_misfits("decoder here", CONFIG, wrong)


def test_a_folder_s_quantization_is_an_object_or_none(tmp_path: Path) -> None:
    assert quantization_config(tmp_path) is None
    for stored, expected in (({}, None), ({"quantization_config": {"bits": 4}}, {"bits": 4})):
        (tmp_path / "config.json").write_text(json.dumps(stored))
        assert quantization_config(tmp_path) == expected
    (tmp_path / "config.json").write_text('{"quantization_config": "gptq"}')
    with pytest.raises(CheckpointError, match="not an object of keys and values"):
        quantization_config(tmp_path)
