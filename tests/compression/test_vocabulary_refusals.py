"""Vocabulary trimming of whole checkpoints and recipes, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from helpers.networks import load_network
from helpers.paths import SHIPPED
from helpers.vocabularies import CORPUS, make_folder
from nota_cli.compression.vocabulary import corpus_texts, prune_checkpoint, prune_recipe, prune_vocabulary
from nota_cli.errors import CheckpointError, UsageError
from nota_cli.recipe.load import load_recipe


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """Of two kinds of tokenizer a decoder, and the same one trimmed to CORPUS."""
    made = {}
    for kind, family in (("unigram", "llama"), ("words", "gemma2")):
        root = tmp_path_factory.mktemp(kind)
        full = make_folder(root / "full", kind, family)
        prune_vocabulary(full, root / "small", CORPUS)
        made[kind] = (full, root / "small")
    return made


def damage_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def damage_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not weights")


def damage_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def damage_rows(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["lm_head.weight"][:-1]}, folder / "model.safetensors")


def damage_few_rows(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    few = {name: t[:100] if "embed" in name or "head" in name else t for name, t in tensors.items()}
    save_file(few, folder / "model.safetensors")


def damage_packed_head(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "lm_head.qweight": torch.zeros(4, 4)}, folder / "model.safetensors")


def damage_bad_words(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"bad_words_ids": [[1, 2]]}))


def damage_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def damage_kind(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_no_tokenizer, "no tokenizer.json"),
        (damage_weights, "damaged"),
        (damage_no_weights, "save the model again as safetensors"),
        (damage_rows, "as many rows"),
        (damage_few_rows, "beyond the 100 rows"),
        (damage_packed_head, "lm_head.qweight"),
        (damage_bad_words, "bad_words_ids"),
        (damage_config, "config.json: not readable JSON"),
        (damage_kind, "WordPiece"),
    ],
)
def test_what_cannot_be_trimmed_is_refused_and_nothing_written(damage, message, folders, tmp_path):
    full = shutil.copytree(folders["unigram"][0], tmp_path / "full")
    damage(full)
    with pytest.raises(CheckpointError, match=message):
        prune_vocabulary(full, tmp_path / "small", [*CORPUS, "thunderstorm"])
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_wrong_use_is_refused(folders, tmp_path):
    full, small = folders["words"]
    with pytest.raises(UsageError, match="is there already"):
        prune_vocabulary(full, small, CORPUS)
    with pytest.raises(UsageError, match="no texts"):
        prune_vocabulary(full, tmp_path / "small", [""])
    with pytest.raises(UsageError, match="xylophone"):
        prune_vocabulary(full, tmp_path / "small", CORPUS, keep=["xylophone"])


def test_texts_of_a_recipe(tiny_recipe):
    recipe = load_recipe(str(tiny_recipe), ["prompts.end_symbol=</s>"])
    pieces = list(corpus_texts(recipe, ["one dog"], questions=["Who laughs?"]))
    assert pieces[0] == "USER: <Speech>"
    assert pieces[1] == "</Speech> Recognize the speech and give me the transcription.\nASSISTANT:"
    assert "</Speech> Who laughs?\nASSISTANT:" in pieces
    assert pieces[-2:] == ["one dog", "one dog</s>"]


def test_the_shipped_checkpoint_says_the_same_with_its_vocabulary_trimmed(tmp_path):
    from nota_cli.data.annotation import read_annotation
    from nota_cli.inference.predict import predict

    rows = [row for name in ("asr", "aac") for row in read_annotation(SHIPPED / "samples" / f"{name}.json")]
    model = load_network(SHIPPED)
    expected = predict(model, rows, SHIPPED / "samples", workers=0)
    report = prune_checkpoint(SHIPPED, tmp_path / "small", [*expected, *(row.text for row in rows)])
    assert report.after < report.before
    small = load_network(tmp_path / "small")
    assert small.decoder.base.config.vocab_size == report.after
    assert predict(small, rows, SHIPPED / "samples", workers=0) == expected


def test_a_checkpoint_with_a_random_decoder_s_tokenizer_becomes_a_folder_of_its_own(tiny_checkpoint, tmp_path):
    report = prune_checkpoint(tiny_checkpoint, tmp_path / "small", ["one rain"], multiple=4)
    recipe = load_recipe(str(tmp_path / "small"))
    assert recipe.decoder.path == str(tmp_path / "small" / "decoder")
    assert report.after % 4 == 0
    again = prune_recipe(recipe, tmp_path / "decoder", ["one rain"])
    assert again.after <= report.after
    with pytest.raises(UsageError, match="is there already"):
        prune_checkpoint(tiny_checkpoint, tmp_path / "small", ["one"])
    with pytest.raises(CheckpointError, match="not a folder with recipe.yaml and model.safetensors"):
        prune_checkpoint(tmp_path / "small" / "decoder" / "nothing", tmp_path / "other", ["one"])


def test_adapters_on_the_output_layer_are_refused(tmp_path):
    broken = shutil.copytree(SHIPPED, tmp_path / "broken")
    file = broken / "adapter" / "adapter_model.safetensors"
    save_file({**load_file(file), "base_model.model.lm_head.lora_B.weight": torch.zeros(98, 8)}, file)
    with pytest.raises(CheckpointError, match=r"lm_head\.lora_B"):
        prune_checkpoint(broken, tmp_path / "small", ["one"])
    assert not (tmp_path / "small").exists()


def test_a_recipe_without_a_decoder_folder_is_refused(tiny_recipe, tmp_path):
    with pytest.raises(UsageError, match="random weights"):
        prune_recipe(load_recipe(str(tiny_recipe)), tmp_path / "small", ["one"])
