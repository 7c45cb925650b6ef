"""Vocabulary trimming: a decoder folder cut down to the tokens that its texts need, with no other weight touched.

The trimmed decoder gives what the full one gives with all other tokens forbidden. The idea is that of Abdaoui et al.
(2020), "Load What You Need"; what is kept here is closed under the tokenizer's merges, so that texts are cut as before.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nota_cli.compression.folders import copy_weights, read_recipe, refuse_used, write_json
from nota_cli.compression.vocabulary_tokenizer import (
    Length,
    always_needed,
    check,
    encode,
    growth,
    named_tokens,
    own_ids,
    processor_ids,
    trim,
    trim_companion,
)
from nota_cli.compression.vocabulary_weights import EMBEDDING_OR_HEAD, count_rows, take_rows
from nota_cli.errors import CheckpointError, UsageError, listing
from nota_cli.files import atomic_folder, copy_folder, write_text
from nota_cli.hub import local_path
from nota_cli.models.checkpoint import WEIGHTS
from nota_cli.models.vocabulary import MAPPING, renumber
from nota_cli.prompts import Query, wrap
from nota_cli.recipe.load import dump_recipe, own_decoder
from nota_cli.recipe.schema import Decoder, Recipe
from nota_cli.weights.files import read_json, tensor_shapes, weight_files

CONFIGS = ("config.json", "generation_config.json")
ADDED = "added_tokens.json"
COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json", ADDED)
# Of tokenizers without tokenizer.json, or full of old ids: they would be stale.
STALE = {"tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", *CONFIGS, *COMPANIONS, MAPPING}
NOT_COPIED = {".safetensors", ".bin", ".pth", ".pt", ".gguf", ".onnx", ".h5", ".msgpack", ".model", ".py"}
UNCLEAR = ("bad_words_ids", "sequence_bias", "forced_decoder_ids")


@dataclass(frozen=True)
class VocabularyReport:
    """What trimming did.

    Attributes:
        before: rows of the full embedding.
        after: rows of the trimmed one, one a token.
        tokens: tokens of the full tokenizer; Qwen's embedding has rows beyond them.
        used: different tokens in the texts; the rest of `after` are specials, bytes and what longer tokens grow from.
        bytes_before: of the full decoder's files of weights.
        bytes_after: of the trimmed decoder's.
        length: what the given texts are in tokens, before and after; prompts are not counted.
    """

    before: int
    after: int
    tokens: int
    used: int
    bytes_before: int
    bytes_after: int
    length: Length


def prune_vocabulary(
    folder: Path,
    out: Path,
    texts: Iterable[str] | Mapping[str, int],
    *,
    required: Iterable[str] = (),
    keep: Iterable[str] = (),
    tokenizer: Path | None = None,
    pad_token: str | None = None,
    multiple: int = 1,
    size: int | None = None,
) -> VocabularyReport:
    """Write to `out` the decoder of `folder` with the tokens that `texts` need, and no others.

    Kept besides: the tokens that kept ones are merged from, so that every text is cut as before whose tokens are all
    kept; byte tokens (single characters, where there are no bytes to fall back on), so that any other text still has
    tokens that decode to it; special tokens that have a role in the tokenizer's or the model's config or in the chat
    template. A word-level tokenizer has nothing to fall back on: other words become the unknown word.

    Where `size` leaves no room for all, the tokens that `texts` use most stay, each with all that it is merged from;
    one that would bring too many is passed over for the next.

    Tokens keep their order. Weights are read file by file and copied as they are, but for the rows of `embed_tokens`
    and `lm_head`. `vocabulary.json` holds `old_ids`: for each id in `out` the one in `folder`, null for a new row.

    Args:
        folder: config.json and safetensors, in any quantization that leaves embedding and output layer alone.
        out: the new folder.
        texts: what the decoder reads or writes, in the pieces that are tokenized (see `corpus_texts`); those that
            come twice count twice. Or how often each counts.
        required: pieces of which every token stays whatever `size` is, such as prompts.
        keep: further tokens, as the vocabulary spells them.
        tokenizer: folder of the tokenizer, if it is not beside the weights.
        pad_token: the recipe's `decoder.pad_token`; it gets the row that it would get as the full decoder is loaded.
        multiple: the first of the dropped tokens stay too, until the number of rows is a multiple of this.
        size: the largest number of rows.

    Raises:
        UsageError: `out` is not empty or cannot be written to, there are no texts, `keep` names what is no token, or
            what has to stay is more than `size`.
        CheckpointError: no tokenizer.json, an incomplete set of weights, a quantized embedding or output layer, or a
            tokenizer of a kind that cannot be trimmed exactly.
    """
    from nota_cli.models.decoders.tokenizer import load_tokenizer

    folder, out, source = Path(folder), Path(out), Path(tokenizer or folder)
    refuse_used(out)
    if not (source / "tokenizer.json").is_file():
        raise CheckpointError(
            f"tokenizer {source}: no tokenizer.json there, and only such tokenizers can be trimmed. "
            "Load it with transformers' AutoTokenizer and save it: that writes the file."
        )
    files = weight_files(folder)
    rows = count_rows(folder, files)
    configs = {name: read_json(folder / name) for name in CONFIGS if name == CONFIGS[0] or (folder / name).exists()}
    unclear = [f"{name}: {key}" for name, values in configs.items() for key in UNCLEAR if values.get(key)]
    if unclear:
        raise CheckpointError(f"decoder {folder} has settings by token that cannot be kept; remove\n{listing(unclear)}")
    companions = {name: read_json(source / name) for name in COMPANIONS if (source / name).exists()}

    full = load_tokenizer(Decoder(path=str(source)))
    if pad_token is not None:
        full.add_special_tokens({"pad_token": pad_token})
    ids = full.get_vocab()
    loaded = json.loads(full.backend_tokenizer.to_str())
    # The file, but with its merges in one format, and with tokens that only the files beside it add.
    content = {**read_json(source / "tokenizer.json"), **{key: loaded[key] for key in ("model", "added_tokens")}}
    required, counts = list(required), Counter(texts)
    for piece in required:
        counts.setdefault(piece, 0)
    used: Counter[int] = Counter()
    for times, row in zip(counts.values(), encode(full, list(counts)), strict=True):
        for token in row:
            used[token] += times
    if not used:
        raise UsageError("there are no texts to keep tokens for; give the prompts and answers the decoder will see")
    # Tokens beyond the rows are never read, unless the decoder is given rows for them as it is loaded.
    known = {number for number in ids.values() if number < rows or pad_token is not None}
    if not set(used) <= known:
        raise CheckpointError(f"tokenizer {source} has tokens beyond the {rows} rows of decoder {folder}")
    keep = set(keep)
    if keep - set(ids):
        raise UsageError(f"the tokenizer in {source} has no token {', '.join(map(repr, sorted(keep - set(ids))))}")

    named = keep.union(*map(named_tokens, companions.values()), () if pad_token is None else (pad_token,))
    template = str(full.chat_template or "")
    named |= {token["content"] for token in content["added_tokens"] if token["content"] in template}
    wanted = always_needed(content) | processor_ids(content) | {ids[token] for token in named & set(ids)}
    wanted = wanted.union(*map(_config_ids, configs.values()))
    wanted.update(used if size is None else (token for row in encode(full, required) for token in row))
    wanted &= known
    grow, own = growth(content["model"]), set(own_ids(content["model"]).values())
    kept = set().union(*map(grow, wanted))
    if size is not None:
        _refuse_small(size, _up_to(len(kept), multiple))
        _add(kept, size - size % multiple, sorted(used, key=lambda token: (-used[token], token)), grow)
    _add(kept, _up_to(len(kept), multiple), sorted(own & known), grow)
    order = sorted(kept, key=lambda number: (number not in own, number))  # added tokens are numbered last at loading
    new = {old: number for number, old in enumerate(order)}
    old_ids = [number if number < rows else None for number in order]

    with atomic_folder(out) as part:
        for path in sorted({*folder.iterdir(), *source.glob("*.jinja")}):
            stale = path.name in STALE or path.suffix in NOT_COPIED or path.name.endswith(".index.json")
            if path.is_file() and not stale:  # licence, chat template, how it was quantized
                shutil.copyfile(path, part / path.name)
        for name, values in configs.items():
            write_json(part / name, renumber(values, new))
        write_json(part / "tokenizer.json", trim(content, new), indent=None)
        left = {token: new[number] for token, number in ids.items() if number in new}
        for name, values in companions.items():
            known_still = {token: left[token] for token in values if token in left}
            write_json(part / name, known_still if name == ADDED else trim_companion(values, left))
        write_json(part / MAPPING, {"vocab_size": rows, "old_ids": old_ids}, indent=None)
        copy_weights(files, part, change=lambda name, tensor: take_rows(name, tensor, old_ids))
        length = check(full, load_tokenizer(Decoder(path=str(part))), counts, new, source)
        after = sum((part / file.name).stat().st_size for file in files)
    before = sum(file.stat().st_size for file in files)
    return VocabularyReport(rows, len(order), len(ids), len(used), before, after, length)


def prune_recipe(
    recipe: Recipe,
    out: Path,
    texts: Iterable[str],
    *,
    questions: Sequence[str] = (),
    keep: Iterable[str] = (),
    multiple: int = 1,
    size: int | None = None,
) -> VocabularyReport:
    """Trim the decoder that a recipe names to the recipe's prompts and `texts`; `out` is a decoder folder.

    With `size`, the prompts' own tokens stay in any case; those of `questions` and `texts`, which count as often as
    they come, as far as there is room. The recipe runs on it with `decoder.path` set to it and `decoder.tokenizer` to
    nothing.

    Raises:
        UsageError: as `prune_vocabulary`; or the recipe's decoder starts from random weights.
        CheckpointError: as `prune_vocabulary`.
    """
    spec = recipe.decoder
    if spec.path is None:
        raise UsageError(f"recipe {recipe.name}: its decoder starts from random weights; train it, trim the checkpoint")
    frames, end = set(corpus_texts(recipe)), recipe.prompts.end_symbol
    counts: Counter[str] = Counter()
    for question in questions:
        counts.update(set(corpus_texts(recipe, (), [question])) - frames)
    answers = list(texts)
    counts.update(answers)
    if end is not None:  # the tokenizer's end-of-sequence token is kept in any case
        for answer in answers:
            counts.setdefault(answer + end, 0)
    required = set(corpus_texts(recipe, (), questions if size is None else ()))
    return prune_vocabulary(
        local_path(spec.path),
        out,
        counts,
        required=sorted(required) if size is None or end is None else [*sorted(required), end],
        keep=[*keep, *([] if spec.bos_token is None else [spec.bos_token])],
        tokenizer=None if spec.tokenizer is None else local_path(spec.tokenizer, kind="tokenizer"),
        pad_token=spec.pad_token,
        multiple=multiple,
        size=size,
    )


def prune_checkpoint(
    checkpoint: Path,
    out: Path,
    texts: Iterable[str],
    *,
    questions: Sequence[str] = (),
    keep: Iterable[str] = (),
    multiple: int = 1,
    size: int | None = None,
) -> VocabularyReport:
    """Write to `out` the checkpoint folder `checkpoint` with its decoder trimmed; all else stays as it is.

    The decoder lies in the new folder, wherever the checkpoint took it from. What is needed to resume training is
    left out: it belongs to the full model.

    Raises:
        UsageError: as `prune_vocabulary`.
        CheckpointError: as `prune_vocabulary`; or there are adapters on the embedding or the output layer.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    refuse_used(out)
    recipe = read_recipe(checkpoint)
    recipe = recipe.model_copy(update={"decoder": own_decoder(recipe.decoder, checkpoint)})
    for file in sorted((checkpoint / "adapter").glob("*.safetensors")):
        bound = [name for name in tensor_shapes(file) if EMBEDDING_OR_HEAD.search(name)]
        if bound:
            raise CheckpointError(
                f"{file} has adapters on the embedding or the output layer, which belong to the full vocabulary:\n"
                f"{listing(bound)}\nMerge them into the decoder, or train with other lora.targets."
            )
    with atomic_folder(out) as part:
        report = prune_recipe(
            recipe, part / "decoder", texts, questions=questions, keep=keep, multiple=multiple, size=size
        )
        for name in (WEIGHTS, "metrics.json"):
            if (checkpoint / name).is_file():
                shutil.copyfile(checkpoint / name, part / name)
        if (checkpoint / "adapter").is_dir():
            copy_folder(checkpoint / "adapter", part / "adapter")
        decoder = recipe.decoder.model_copy(update={"path": "./decoder", "config": None, "tokenizer": None})
        write_text(part / "recipe.yaml", dump_recipe(recipe.model_copy(update={"decoder": decoder})))
    return report


def corpus_texts(recipe: Recipe, texts: Iterable[str] = (), questions: Sequence[str] = ()) -> Iterator[str]:
    """What a recipe's decoder reads and writes, in the pieces that are tokenized.

    These are the prompts of all tasks before and after the audio, with each of `questions` where a task asks one, and
    each of `texts` (references, further corpora) alone and with the recipe's end symbol.
    """
    for task, prompt in recipe.prompts.tasks.items():
        for question in questions or ("?",) if "{}" in prompt else (None,):
            yield from wrap(recipe.prompts, Query(task, question))
    end = recipe.prompts.end_symbol or ""  # the tokenizer's end-of-sequence token is kept in any case
    for text in texts:
        yield text
        yield text + end


def _refuse_small(size: int, needed: int) -> None:
    if size < needed:
        raise UsageError(
            f"a size of {size:,} is too small: {needed:,} tokens stay in any case (prompts, special tokens, those "
            "asked for, bytes or single characters, all that they are merged from). Give that or more."
        )


def _up_to(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _add(kept: set[int], limit: int, candidates: Sequence[int], grow: Callable[[int], set[int]]) -> None:
    """Add tokens to `kept` until there are `limit`; those that bring too many with them are passed over."""
    for candidate in candidates:
        if len(kept) == limit:
            return
        more = grow(candidate) - kept
        if len(kept) + len(more) <= limit:
            kept |= more


def _config_ids(values: Mapping[str, Any]) -> set[Any]:
    """Ids of the tokens that a model's config names, and what it says where there is none."""
    named = [value for key, value in values.items() if key.endswith("token_id")]
    return {item for value in named for item in (value if isinstance(value, list) else [value])}
