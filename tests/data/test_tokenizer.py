import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from nota_cli.data.tokenizer import SPECIAL_TOKENS, build_word_tokenizer
from nota_cli.errors import DataError

BEFORE = "USER: <Speech>"
AFTER = "</Speech> Recognize the speech and give me the transcription.\nASSISTANT:"
TEXTS = [BEFORE, AFTER, "zero one two three", "a dog is barking", "## a ##b"]


def test_loads_back_with_the_same_ids_even_beside_a_gemma_config(tmp_path: Path) -> None:
    built = build_word_tokenizer(TEXTS, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma2"}))
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == built.get_vocab()
    for text in TEXTS:
        ids = loaded(text, add_special_tokens=False).input_ids
        assert ids == built(text, add_special_tokens=False).input_ids
        assert loaded.unk_token_id not in ids
    assert [loaded.pad_token_id, loaded.eos_token_id, loaded.bos_token_id, loaded.unk_token_id] == [0, 1, 2, 3]
    assert loaded.convert_ids_to_tokens([0, 1, 2, 3]) == list(SPECIAL_TOKENS)
    assert loaded.padding_side == "left"


def test_decoding_joins_words_with_one_space_and_leaves_special_tokens_out(tmp_path: Path) -> None:
    tokenizer = build_word_tokenizer(TEXTS, tmp_path)
    ids = tokenizer("a  dog\nis barking", add_special_tokens=False).input_ids
    assert tokenizer.decode([2, *ids, 1, 0], skip_special_tokens=True) == "a dog is barking"
    assert tokenizer.decode(tokenizer("a ## b").input_ids) == "a ## b"


def test_unknown_words_and_other_case_become_unk(tmp_path: Path) -> None:
    tokenizer = build_word_tokenizer(TEXTS, tmp_path)
    assert tokenizer("cat").input_ids == [3]
    assert tokenizer("Dog").input_ids == [3]


def test_ids_do_not_depend_on_the_order_of_the_texts(tmp_path: Path) -> None:
    first = build_word_tokenizer(TEXTS, tmp_path / "a")
    second = build_word_tokenizer(reversed([*TEXTS, *TEXTS]), tmp_path / "b")
    assert first.get_vocab() == second.get_vocab()
    assert sorted(first.get_vocab().values()) == list(range(len(first)))
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_texts_without_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no word"):
        build_word_tokenizer([" ", ""], tmp_path)
