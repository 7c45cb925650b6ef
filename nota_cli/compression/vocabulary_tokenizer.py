"""What a `tokenizer.json` needs in order to cut some texts as before, and the file with that and nothing more."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nota_cli.errors import CheckpointError, listing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
LISTS = ("additional_special_tokens", "extra_special_tokens")
BYTES = [f"<0x{value:02X}>" for value in range(256)]
BATCH = 1000  # texts tokenized at once


@dataclass(frozen=True)
class Length:
    """What texts are in tokens, before trimming and after, and how many tokens of before are kept ones."""

    before: int
    after: int
    kept: int


def own_ids(model: dict[str, Any]) -> dict[str, int]:
    """The ids of the tokens that are the model's own, not added to it."""
    if model["type"] == "Unigram":
        return {entry[0]: number for number, entry in enumerate(model["vocab"])}
    return dict(model["vocab"])


def growth(model: dict[str, Any]) -> Callable[[int], set[int]]:
    """A function from a token's id to the ids that must be kept with it: itself, and all it is merged from.

    BPE makes a token in a text by the same merges as from its own spelling alone, since no merge crossed its borders
    and merges are chosen by rank. So the run of its spelling passes through all the tokens that it comes from. With
    those kept, all the merges that a text needs are kept, and each is still the first of those that are possible.

    Raises:
        CheckpointError: a kind of tokenizer of which that is not true.
    """
    if model["type"] not in ("BPE", "WordLevel", "Unigram"):
        raise CheckpointError(f"a {model['type']} tokenizer cannot be trimmed; BPE, Unigram and WordLevel can.")
    if model["type"] != "BPE":
        return lambda token: {token}
    if any(model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout")):
        raise CheckpointError("a BPE tokenizer with dropout, or marks inside or after words, cannot be trimmed.")
    ids = model["vocab"]
    spelling = {number: token for token, number in ids.items()}
    ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}

    def grow(token: int) -> set[int]:
        symbols = list(spelling.get(token, ""))
        passed = {token}
        while len(symbols) > 1:
            pairs = zip(symbols, symbols[1:], strict=False)
            rank, start = min((ranks.get(pair, len(ranks)), start) for start, pair in enumerate(pairs))
            if rank == len(ranks):
                return {token}  # no merges lead to it: a text has it as a whole word or never
            pair = symbols[start : start + 2]
            passed.update(ids[symbol] for symbol in pair)
            symbols[start : start + 2] = ["".join(pair)]
        return passed

    return grow


def always_needed(content: dict[str, Any]) -> set[int]:
    """Ids that any text may need: bytes or characters, the unknown token, and what stands for a space."""
    model = content["model"]
    unigram = model["type"] == "Unigram"
    ids = own_ids(model)
    needed = set(_marks([content.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")]))
    if model["type"] != "WordLevel":
        complete = model.get("byte_fallback") and all(name in ids for name in BYTES)
        needed.update(BYTES if complete else [token for token in ids if len(token) == 1])
    kept = {ids[token] for token in needed if token in ids}
    unknown = model.get("unk_id") if unigram else ids.get(model.get("unk_token"))
    if unigram:  # the score of an unknown character lies so much below the lowest of all
        kept.add(min(range(len(model["vocab"])), key=lambda number: model["vocab"][number][1]))
    return kept if unknown is None else kept | {unknown}


def _marks(node: Any, inside: bool = False) -> Iterator[str]:
    """Characters that a tokenizer's steps look for or put in, such as the one for a space: bytes do not serve there."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _marks(value, key in ("content", "String", "replacement", "prepend"))
    elif isinstance(node, list):
        for value in node:
            yield from _marks(value)
    elif isinstance(node, str) and inside:
        yield from node


def named_tokens(values: Mapping[str, Any]) -> set[str]:
    """Tokens to which a tokenizer's config gives a role."""
    return {token for role in ROLES if (token := _text(values.get(role))) is not None}


def processor_ids(content: dict[str, Any]) -> set[int]:
    """Ids of the tokens that the post-processor puts round a text."""
    ids: set[int] = set()

    def collect(number: int) -> int:
        ids.add(number)
        return number

    _renumber_processor(content.get("post_processor"), collect)
    return ids


def trim(content: dict[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """A `tokenizer.json` with the tokens of `new` (old id to new) alone."""
    model = dict(content["model"])
    if model["type"] == "Unigram":
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new]
        model["unk_id"] = new.get(model["unk_id"])
    else:
        there = {token: new[number] for token, number in model["vocab"].items() if number in new}
        model["vocab"] = dict(sorted(there.items(), key=lambda item: item[1]))
    if model["type"] == "BPE":
        there = model["vocab"]
        model["merges"] = [[a, b] for a, b in model["merges"] if a in there and b in there and a + b in there]
    added = [{**token, "id": new[token["id"]]} for token in content["added_tokens"] if token["id"] in new]
    return {
        **content,
        "model": model,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "post_processor": _renumber_processor(content.get("post_processor"), new.__getitem__),
        "padding": None,  # it names an id, and whoever calls says how to pad
    }


def trim_companion(values: dict[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
    """A `tokenizer_config.json` or `special_tokens_map.json` that speaks of the tokens of `ids` alone.

    A token that a list still named would come back when the tokenizer is loaded, with an id that has no row.
    """
    values = dict(values)
    if "added_tokens_decoder" in values:
        entries = [entry for entry in values["added_tokens_decoder"].values() if entry["content"] in ids]
        entries.sort(key=lambda entry: ids[entry["content"]])
        values["added_tokens_decoder"] = {str(ids[entry["content"]]): entry for entry in entries}
    for key in LISTS:
        if isinstance(values.get(key), list):
            values[key] = [token for token in values[key] if _text(token) in ids]
        elif isinstance(values.get(key), dict):
            values[key] = {name: token for name, token in values[key].items() if _text(token) in ids}
    return values


def encode(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> Iterator[list[int]]:
    """The ids of each text, no special tokens added."""
    for start in range(0, len(texts), BATCH):
        yield from tokenizer(list(texts[start : start + BATCH]), add_special_tokens=False, verbose=False).input_ids


def check(
    full: "PreTrainedTokenizerBase",
    trimmed: "PreTrainedTokenizerBase",
    texts: Mapping[str, int],
    new: Mapping[int, int],
    source: Path,
) -> Length:
    """Hold what was written to its promise: the tokens have their new ids, and texts of kept ones the same tokens.

    Args:
        full: the tokenizer before.
        trimmed: the tokenizer after, as it is loaded from its file.
        texts: each text, and how often it counts in what is returned.
        new: new id of each kept one.
        source: the full tokenizer's folder, for the message.

    Raises:
        CheckpointError: it does not keep it.
    """
    ids = trimmed.get_vocab()
    wrong = [token for token, number in full.get_vocab().items() if number in new and ids.get(token) != new[number]]
    if wrong:
        raise CheckpointError(f"tokenizer {source}: its ids cannot be closed up; they have gaps:\n{listing(wrong)}")
    length = [0, 0, 0]
    pieces = list(texts)
    for text, before, after in zip(pieces, encode(full, pieces), encode(trimmed, pieces), strict=True):
        left = [new[token] for token in before if token in new]
        if len(left) == len(before) and left != after:
            raise CheckpointError(f"tokenizer {source} cannot be trimmed exactly: {text!r} would have other tokens")
        length = [total + texts[text] * len(ids) for total, ids in zip(length, (before, after, left), strict=True)]
    return Length(*length)


def _renumber_processor(node: Any, number: Callable[[int], int]) -> Any:
    if isinstance(node, list):
        return [_renumber_processor(item, number) for item in node]
    if not isinstance(node, dict):
        return node
    result: dict[str, Any] = {}
    for key, value in node.items():
        if key == "ids":
            result[key] = [number(token) for token in value]
        elif key in ("sep", "cls"):
            result[key] = [value[0], number(value[1])]
        else:
            result[key] = _renumber_processor(value, number)
    return result


def _text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token
