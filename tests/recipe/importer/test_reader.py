"""Keys of another system's config: read by kind, by either spelling, and none of them lost."""

from pathlib import Path

import pytest

from nota_cli.errors import RecipeError
from nota_cli.recipe.importer.reader import Config, read_config

TEXT = """
model:
  gemma_path: google/gemma-2-2b
  lora: "yes"
  lora_rank: 8.0
  lora_alpha: 1e1
  ckpt: " "
  token: hf_1234
run:
  optims: {optims_1: {init_lr: 1e-4}, optims_2: {init_lr: 3e-5}}
  new_key: 1
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    file = tmp_path / "configs" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(TEXT)
    return read_config(file, 2)


def test_values_come_by_kind_and_by_the_organisers_names(config: Config) -> None:
    assert config.text("model.llama_path") == "google/gemma-2-2b"
    assert config.flag("model.lora", False)
    assert config.flag("model.freeze_whisper", True)  # not there
    assert (config.whole("model.lora_rank"), config.number("model.lora_alpha")) == (8, 10.0)
    assert config.text("model.ckpt") is None  # blank is as good as none
    assert config.number("run.optims.init_lr") == 3e-5  # of stage 2


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda config: config.number("model.llama_path"), "model.gemma_path is 'google/gemma-2-2b', not a number"),
        (lambda config: config.flag("model.lora_rank", True), "model.lora_rank is 8.0, not true or false"),
        (lambda config: config.whole("run.optims.init_lr"), r"run.optims.optims_2.init_lr is .*, not a whole number"),
        (lambda config: config.needed_path("model.whisper_path"), "model.whisper_path is missing or empty"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_as_the_file_spells_it(config: Config, read, words: str) -> None:
    with pytest.raises(RecipeError, match=f"mine.yaml: {words}"):
        read(config)


def test_keys_that_nobody_asked_for_are_noted_or_unknown(config: Config) -> None:
    for key in ("model.llama_path", "model.lora", "model.lora_rank", "model.lora_alpha", "model.ckpt"):
        config.value(key)
    assert set(config.sort_the_rest()) == {"run.optims.optims_2.init_lr", "run.new_key"}
    assert sorted(key for keys in config.notes.values() for key in keys) == [
        "model.token",
        "run.optims.optims_1.init_lr",
    ]
    assert "hf_1234" not in str(config.notes)


def test_a_file_is_found_in_the_folders_above(config: Config, tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text("{}")
    assert config.near("prompts.json") == tmp_path / "prompts.json"
    assert config.near("nowhere.json") is None
