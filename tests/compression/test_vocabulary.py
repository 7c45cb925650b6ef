"""Vocabulary trimming: the same tokens for every text that needs no others, the same text for any, the same output."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from helpers.vocabularies import (
    CORPUS,
    SURPLUS,
    TOKENIZERS,
    generated,
    make_folder,
    mapping,
    texts,
    tokens,
)
from nota_cli.compression.vocabulary import prune_vocabulary
from nota_cli.errors import CheckpointError
from nota_cli.models.decoders.decoder import load_decoder
from nota_cli.recipe.schema import Decoder

PAIRS = [
    ("bytes", "qwen2"),
    ("whole-words", "llama"),
    ("fallback", "gemma2"),
    ("unigram", "llama"),
    ("words", "gemma2"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """For every kind of tokenizer a decoder and the same one trimmed to CORPUS."""
    made = {}
    for kind, family in PAIRS:
        root = tmp_path_factory.mktemp(kind)
        full = make_folder(root / "full", kind, family)
        prune_vocabulary(full, root / "small", CORPUS)
        made[kind] = (full, root / "small")
    return made


@pytest.fixture(scope="module")
def pairs(folders) -> dict[str, tuple]:
    """Full tokenizer, trimmed tokenizer, new id of each old one."""
    load = PreTrainedTokenizerFast.from_pretrained
    return {kind: (load(full), load(small), mapping(small)) for kind, (full, small) in folders.items()}


@pytest.mark.parametrize("kind", [kind for kind, _ in PAIRS])
def test_the_corpus_has_the_same_tokens_and_they_the_same_text(kind, pairs):
    full, small, new = pairs[kind]
    assert len(small) == len(new) < len(full)
    for text in CORPUS:
        before, after = tokens(full, text), tokens(small, text)
        assert after == [new[token] for token in before]
        assert small.decode(after) == full.decode(before)
        assert small(text).input_ids == [new[token] for token in full(text).input_ids]  # with what is put round it


@pytest.mark.parametrize("kind", [kind for kind, _ in PAIRS])
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=texts())
def test_any_text_decodes_as_before_and_has_the_same_tokens_where_all_are_kept(kind, pairs, text):
    full, small, new = pairs[kind]
    before, after = tokens(full, text), tokens(small, text)
    if all(token in new for token in before):
        assert after == [new[token] for token in before]
    elif kind == "words":
        assert small.unk_token_id in after
    if kind != "words":
        assert small.decode(after) == full.decode(before)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(TOKENIZERS)), corpus=st.lists(texts(), min_size=1, max_size=5), probe=texts())
def test_any_corpus_keeps_its_tokens(kind, corpus, probe, folders, tmp_path_factory):
    full = folders[kind][0]
    whole = PreTrainedTokenizerFast.from_pretrained(full)
    small = tmp_path_factory.mktemp("any") / "small"
    if not any(tokens(whole, text) for text in corpus):
        return
    prune_vocabulary(full, small, corpus)
    trimmed, new = PreTrainedTokenizerFast.from_pretrained(small), mapping(small)
    for text in [*corpus, probe, "".join(corpus)]:
        before = tokens(whole, text)
        assert trimmed.decode(tokens(trimmed, text)) == whole.decode(before)
        if text in corpus or set(before) <= set(new):
            assert tokens(trimmed, text) == [new[token] for token in before]


@pytest.mark.parametrize("kind", ["fallback", "unigram", "bytes"])
def test_spaces_decode_though_the_corpus_has_none(kind, folders, tmp_path):
    prune_vocabulary(folders[kind][0], tmp_path / "small", ["!"])
    full, small = (PreTrainedTokenizerFast.from_pretrained(path) for path in (folders[kind][0], tmp_path / "small"))
    text = "a dog barks  twice"
    assert small.decode(tokens(small, text)) == full.decode(tokens(full, text))


def test_unknown_characters_stay_as_unlikely_as_they_were(folders, tmp_path):
    """With the unlikeliest piece gone, `a` as an unknown character and `bcd` would beat `ab` and `cd`."""
    folder = shutil.copytree(folders["unigram"][0], tmp_path / "full")
    pieces = [("<unk>", 0.0), *((f"<0x{value:02X}>", 0.0) for value in range(256))]
    pieces += [("a", -85.0), ("ab", -40.0), ("cd", -40.0), ("bcd", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    prune_vocabulary(folder, tmp_path / "small", ["abcd", "bcd"])
    small = PreTrainedTokenizerFast.from_pretrained(tmp_path / "small")
    assert small.tokenize("abcd") == ["ab", "cd"]


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("kind", [kind for kind, _ in PAIRS])
def test_output_is_the_full_model_s_with_the_dropped_tokens_forbidden(kind, beams, folders, pairs):
    (full, small), (tokenizer, _, new) = folders[kind], pairs[kind]
    seen: set[int] = set()
    for text in CORPUS[:3]:
        prompt = [tokenizer.bos_token_id, *tokens(tokenizer, text)]
        expected = generated(full, prompt, beams, set(new))
        assert [[new[token] for token in row] for row in expected] == generated(
            small, [new[token] for token in prompt], beams
        )
        seen.update(token for row in expected for token in row)
    assert len(seen) > 5  # or there was little to compare


@pytest.mark.parametrize("kind", [kind for kind, _ in PAIRS])
def test_rows_configs_and_files_agree(kind, folders, pairs):
    (full, small), (_, trimmed, new) = folders[kind], pairs[kind]
    before, after = load_file(full / "model.safetensors"), load_file(small / "model.safetensors")
    assert set(before) == set(after)
    for name, tensor in before.items():
        rows = tensor[list(new)] if "embed_tokens" in name or "lm_head" in name else tensor
        assert torch.equal(after[name], rows)
    config = json.loads((small / "config.json").read_text())
    generation = json.loads((small / "generation_config.json").read_text())
    assert config["vocab_size"] == len(new) == len(trimmed)
    assert (config["bos_token_id"], config["eos_token_id"]) == (trimmed.bos_token_id, trimmed.eos_token_id)
    assert generation["eos_token_id"] == [trimmed.eos_token_id, trimmed.pad_token_id]
    assert generation["suppress_tokens"] == [trimmed.bos_token_id]
    assert list(new) == sorted(new)
    reserved = {"<unused0>", "<unused1>", "<|reserved_special_token_0|>", "<|fim|>", "<|im_start|>"}
    assert not reserved & set(trimmed.get_vocab())
    if kind != "bytes":  # for Qwen it adds a token that the full folder has not either
        assert AutoTokenizer.from_pretrained(small).get_vocab() == trimmed.get_vocab()


def test_named_tokens_stay(folders, tmp_path):
    full = shutil.copytree(folders["bytes"][0], tmp_path / "full")
    ids = PreTrainedTokenizerFast.from_pretrained(full).get_vocab()
    (full / "added_tokens.json").write_text(json.dumps({"<|fim|>": ids["<|fim|>"], "<bos>": ids["<bos>"]}))
    (full / "chat_template.jinja").write_text("{{ '<|im_start|>' + messages[0].content }}")
    (full / "merges.txt").write_text("stale")
    config = json.loads((full / "tokenizer_config.json").read_text())
    listed = ["<|reserved_special_token_0|>", "<|im_start|>"]
    (full / "tokenizer_config.json").write_text(json.dumps({**config, "additional_special_tokens": listed}))
    longest = max((token for token in ids if token.startswith("Ġ")), key=len)
    report = prune_vocabulary(full, tmp_path / "small", CORPUS, keep=[longest, "<|fim|>"])
    small = PreTrainedTokenizerFast.from_pretrained(tmp_path / "small")
    assert len(longest) > 5
    assert small.tokenize(longest.replace("Ġ", " ")) == [longest]
    assert len(small) == report.after
    assert {"<|im_start|>", "<|fim|>"} <= set(small.get_vocab())
    assert "<|reserved_special_token_0|>" not in small.get_vocab()
    added = json.loads((tmp_path / "small" / "added_tokens.json").read_text())
    assert added == {token: small.get_vocab()[token] for token in ("<|fim|>", "<bos>")}
    assert not (tmp_path / "small" / "merges.txt").exists()
    assert (tmp_path / "small" / "chat_template.jinja").exists()


@pytest.mark.parametrize("surplus", [0, SURPLUS])
def test_the_recipe_s_pad_token_has_the_row_that_the_full_decoder_gives_it(surplus, tmp_path):
    full = make_folder(tmp_path / "full", "fallback", "llama", surplus)
    prune_vocabulary(full, tmp_path / "small", CORPUS, pad_token="[PAD]")
    before = load_decoder(Decoder(path=str(full), pad_token="[PAD]"))
    after = load_decoder(Decoder(path=str(tmp_path / "small"), pad_token="[PAD]"))
    assert len(after.tokenizer) == after.base.config.vocab_size
    for get in ("get_input_embeddings", "get_output_embeddings"):
        rows = [getattr(d.base, get)().weight[d.tokenizer.pad_token_id] for d in (before, after)]
        assert torch.equal(*rows)


@pytest.mark.parametrize("multiple", [8, 64])
def test_rows_are_filled_to_a_multiple_with_real_tokens(multiple, folders, tmp_path):
    full, small = folders["fallback"]
    report = prune_vocabulary(full, tmp_path / "filled", CORPUS, multiple=multiple)
    assert report.after % multiple == 0
    assert report.after - len(mapping(small)) < multiple
    assert set(mapping(small)) <= set(mapping(tmp_path / "filled"))


def test_sharded_weights_are_trimmed_file_by_file(tmp_path):
    full = make_folder(tmp_path / "full", "fallback", "llama", max_shard_size="60KB")
    index = "model.safetensors.index.json"
    places = json.loads((full / index).read_text())["weight_map"]
    assert len(set(places.values())) > 2
    report = prune_vocabulary(full, tmp_path / "small", CORPUS)
    written = json.loads((tmp_path / "small" / index).read_text())
    assert written["weight_map"] == places
    shards = [load_file(tmp_path / "small" / name) for name in sorted(set(places.values()))]
    assert written["metadata"]["total_size"] == sum(t.nbytes for shard in shards for t in shard.values())
    assert report.bytes_after < report.bytes_before == sum(file.stat().st_size for file in full.glob("*.safetensors"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert model.get_output_embeddings().weight.size(0) == report.after

    gone = places["lm_head.weight"]
    (full / index).write_text(json.dumps({"weight_map": {**places, "model.norm.bias": gone}}))
    with pytest.raises(CheckpointError, match=r"model\.norm\.bias"):
        prune_vocabulary(full, tmp_path / "again", CORPUS)
    (full / gone).unlink()
    with pytest.raises(CheckpointError, match=f"not there: {gone}"):
        prune_vocabulary(full, tmp_path / "again", CORPUS)
    assert not (tmp_path / "again").exists()


def test_nf4_weights_are_copied_as_they_are(folders, tmp_path):
    pytest.importorskip("bitsandbytes")
    from nota_cli.quantization.nf4 import load_nf4_decoder

    plain = make_folder(tmp_path / "plain", "bytes", "qwen2")
    load_nf4_decoder(plain).save_pretrained(tmp_path / "full")
    report = prune_vocabulary(tmp_path / "full", tmp_path / "small", CORPUS, tokenizer=plain)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("full", "small"))
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before if "embed_tokens" not in name)
    new = mapping(tmp_path / "small")
    ids = torch.tensor([list(new)[10:20]])
    full, small = (load_nf4_decoder(tmp_path / name) for name in ("full", "small"))
    with torch.inference_mode():
        expected = full(ids).logits[..., list(new)]
        got = small(torch.tensor([[new[token] for token in row] for row in ids.tolist()])).logits
    assert got.size(-1) == report.after
    torch.testing.assert_close(got, expected)
