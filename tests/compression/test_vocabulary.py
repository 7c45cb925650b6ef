"""Vocabulary trimming: the same tokens for every text that needs no others, the same text for any, the same output."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from nota_cli.compression.vocabulary import prune_vocabulary
from nota_cli.data.tokenizer import build_word_tokenizer
from nota_cli.errors import CheckpointError
from nota_cli.models.decoders.decoder import load_decoder
from nota_cli.recipe.schema import Decoder

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "checkpoints" / "tiny"
SURPLUS = 7  # rows of the embedding beyond the tokens
ENGLISH = [
    "A dog barks twice while rain falls on the roof of a parked car.",
    "Please write down what you hear in the audio.\nThe people are talking, and then they laugh loudly!",
    "seven thousand and forty-two birds were singing in the trees before the thunderstorm",
    "Somebody's walking on gravel; children's voices can be heard in the background.",
    "the water is running, the engine is running, the man is running and breathing heavily",
]
CORPUS = [
    "a dog is barking in the rain",
    "USER: ",
    " what is heard?\nASSISTANT:",
    "The children laugh<eos>",
    "naïve café",
]
OTHER = "ein größerer Hund 犬が吠える 🐕 <0x41> thunderstorm ▁"


def byte_level(ignore_merges: bool = False) -> Tokenizer:
    """As Qwen's and, with `ignore_merges`, Llama 3's: specials above the vocabulary."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.normalizer = normalizers.NFC()
    words = r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = pre_tokenizers.Split(Regex(words), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(ENGLISH, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet))
    specials = ["<bos>", "<eos>", "<pad>", "<|reserved_special_token_0|>", "<|fim|>", "<|im_start|>"]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    bos = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As Gemma's and Llama 2's: specials first, then bytes, a mark for the space, no other characters guaranteed."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<unused0>", "<unused1>"]
    first = [*specials, *(f"<0x{value:02X}>" for value in range(256))]
    texts = [*ENGLISH, "größer naïve café"]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=560, special_tokens=first))
    return only_added(tokenizer, specials)


def unigram() -> Tokenizer:
    """As SentencePiece's unigram models with bytes."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    space = decoders.Replace("▁", " ")
    tokenizer.decoder = decoders.Sequence([space, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<unused0>"]
    trainer = trainers.UnigramTrainer(vocab_size=140, special_tokens=specials, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(ENGLISH, trainer)
    content = json.loads(tokenizer.to_str())
    content["model"]["byte_fallback"] = True
    content["model"]["vocab"] += [[f"<0x{value:02X}>", -30.0] for value in range(256)]
    return Tokenizer.from_str(json.dumps(content))


def only_added(tokenizer: Tokenizer, specials: list[str]) -> Tokenizer:
    """The trainer takes all tokens that it is given for special ones; bytes are ordinary."""
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in specials]
    return Tokenizer.from_str(json.dumps(content))


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "bytes": byte_level,
    "whole-words": lambda: byte_level(ignore_merges=True),
    "fallback": byte_fallback,
    "unigram": unigram,
}
SIZES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
MODELS = {
    "llama": {"model_type": "llama", "tie_word_embeddings": False},
    "gemma2": {"model_type": "gemma2", "head_dim": 8, "query_pre_attn_scalar": 8, "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
}
PAIRS = [
    ("bytes", "qwen2"),
    ("whole-words", "llama"),
    ("fallback", "gemma2"),
    ("unigram", "llama"),
    ("words", "gemma2"),
]


def make_folder(folder: Path, kind: str, family: str, surplus: int = SURPLUS, **saving: object) -> Path:
    from transformers import AutoConfig

    if kind == "words":
        tokenizer = build_word_tokenizer([*ENGLISH, *CORPUS], folder)
    else:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=TOKENIZERS[kind](), bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
        )
        tokenizer.save_pretrained(folder)
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    size = len(tokenizer) + surplus
    config = AutoConfig.for_model(**SIZES, **MODELS[family], **ids, vocab_size=size, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.9 * parameter.shape[1] ** -0.5)
    model.generation_config.eos_token_id = [ids["eos_token_id"], ids["pad_token_id"]]
    model.generation_config.suppress_tokens = [ids["bos_token_id"], size - 1]
    model.save_pretrained(folder, **saving)
    return folder


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


def mapping(small: Path) -> dict[int, int]:
    old_ids = json.loads((small / "vocabulary.json").read_text())["old_ids"]
    return {old: new for new, old in enumerate(old_ids) if old is not None}


def tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def texts() -> st.SearchStrategy[str]:
    """Anything at all, and pieces of real sentences joined anyhow."""
    words = st.sampled_from([word for line in [*ENGLISH, *CORPUS, OTHER] for word in (line, *line.split())])
    piece = st.builds(
        lambda word, start, end: word[start : len(word) - end], words, st.integers(0, 3), st.integers(0, 3)
    )
    joined = st.lists(st.one_of(words, piece, st.sampled_from([" ", "  ", "\n"])), max_size=8).map("".join)
    return st.one_of(st.text(max_size=30), joined, st.lists(words, max_size=6).map(" ".join))


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


@torch.inference_mode()
def generated(folder: Path, prompt: list[int], beams: int, allowed: set[int] | None = None) -> list[list[int]]:
    """The best texts of a search, all logits but those of `allowed` at minus infinity."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    assert model.get_input_embeddings().weight.size(0) == model.config.vocab_size
    if allowed is not None:
        dropped = [token for token in range(model.config.vocab_size) if token not in allowed]

        def forbid(module, inputs, output):
            output.logits[..., dropped] = -torch.inf
            return output

        model.register_forward_hook(forbid)
    found = model.generate(
        inputs_embeds=model.get_input_embeddings()(torch.tensor([prompt])),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        min_new_tokens=12,
        max_new_tokens=24,
        num_beams=beams,
        num_return_sequences=beams,
        do_sample=False,
        repetition_penalty=1.7,
    )
    return found.tolist()


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
