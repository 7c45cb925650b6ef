"""Decoder folders with tokenizers of several kinds, and texts for them."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from nota_cli.data.tokenizer import build_word_tokenizer

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
