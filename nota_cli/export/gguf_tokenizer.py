"""A tokenizer of the library `tokenizers` in a GGUF file, where llama.cpp has its kind."""

import json
from typing import Any

PATTERNS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
    r"|\s+": "llama-bpe",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
    r"|\s+": "qwen2",
}
"""How byte-level tokenizers cut a text into words, and llama.cpp's names for it."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""GGUF's types of tokens."""
NEVER = -1e6  # score of a token that no merge makes


def add_tokenizer(writer: Any, tokenizer: Any, rows: int) -> str:
    """Write tokens, merges and special tokens.

    A kind of tokenizer that llama.cpp does not have (such as whole words) is left out, and the file then says so in
    llama.cpp's way, by the model `none`: it runs on embeddings and ids alike, and texts are cut elsewhere.

    Args:
        writer: `gguf.GGUFWriter`.
        tokenizer: of transformers, with a `backend_tokenizer`.
        rows: of the token table; those without a token are marked as unused.

    Returns:
        What was written: `gpt2` (byte-level), `llama` (pieces with a fallback to bytes), or `none`.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    kind, pre = _kind(content)
    writer.add_tokenizer_model(kind)
    if kind == "none":
        return kind
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    tokens, types = _tokens(content, rows)
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in content["model"]["merges"]]
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if kind == "gpt2":
        writer.add_token_merges([" ".join(pair) for pair in merges])
    else:
        ranks: dict[str, float] = {}
        for rank, pair in enumerate(merges):
            ranks.setdefault("".join(pair), -float(rank))
        writer.add_token_scores([ranks.get(token, NEVER) for token in tokens])
        writer.add_add_space_prefix(_prepends(content["normalizer"]))
    for role in ("bos", "eos", "pad", "unk"):
        token = getattr(tokenizer, f"{role}_token_id")
        if token is not None:
            getattr(writer, f"add_{role}_token_id")(int(token))
    writer.add_add_bos_token(tokenizer.bos_token_id is not None)
    writer.add_add_eos_token(False)
    return kind


def _kind(content: dict[str, Any]) -> tuple[str, str | None]:
    """llama.cpp's tokenizer model, and its name for the way words are cut."""
    model = content["model"]
    if model["type"] != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return "none", None
    if model.get("byte_fallback"):
        return "llama", "default"
    steps = _steps(content["pre_tokenizer"], "pretokenizers")
    if not any(step["type"] == "ByteLevel" for step in steps):
        return "none", None
    names = [PATTERNS.get(step["pattern"].get("Regex", "")) for step in steps if step["type"] == "Split"]
    if not names and len(steps) == 1 and steps[0].get("use_regex", True):
        return "gpt2", "gpt-2"
    return ("gpt2", names[0]) if len(names) == 1 and names[0] is not None else ("none", None)


def _steps(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """A part of a tokenizer as a list: a sequence, one step, or none."""
    if part is None:
        return []
    return list(part[name]) if part["type"] == "Sequence" else [part]


def _prepends(normalizer: dict[str, Any] | None) -> bool:
    """Whether a text gets a space in front."""
    return any(step["type"] == "Prepend" for step in _steps(normalizer, "normalizers"))


def _tokens(content: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Tokens and their types by id."""
    fallback = bool(content["model"].get("byte_fallback"))
    tokens, types = [f"[UNUSED{row}]" for row in range(rows)], [UNUSED] * rows
    for token, row in content["model"]["vocab"].items():
        tokens[row] = token
        is_byte = fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">")
        types[row] = BYTE if is_byte else NORMAL
    for added in content["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    unknown = content["model"].get("unk_token")
    if unknown is not None and unknown in content["model"]["vocab"]:
        types[content["model"]["vocab"][unknown]] = UNKNOWN
    return tokens, types
