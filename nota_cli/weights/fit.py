"""Why weights do not fit: which setting asks for another shape, which layers the file has and the config has not."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from nota_cli.console import warn
from nota_cli.errors import CheckpointError, listing
from nota_cli.recipe.schema import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def shape_line(name: str, stored: Sequence[int], expected: Sequence[int], recipe: Recipe) -> str:
    """One line for a weight of another shape: both shapes, and the fields of the recipe that the expected one is of."""
    section = "lora" if "lora_" in name else name.split(".")[0]
    values = getattr(recipe, section, None)
    fields = {} if values is None else values.model_dump() if isinstance(values, BaseModel) else {}
    fields |= {f"config.{key}": value for key, value in (fields.get("config") or {}).items()}
    fields_note = _matching_fields(fields, stored, expected, f"{section}.")
    return f"shape of {name}: {tuple(stored)} in the file, {tuple(expected)} in the model{fields_note}"


def _misfits(config: "PreTrainedConfig", report: Mapping[str, Any]) -> dict[str, list[str]]:
    """What transformers' loading report says does not fit, each with the field of `config.json` that asks for it.

    Returns:
        Lines for `missing`, `unexpected` and `of another shape` weights, sorted, the names first.
    """
    fields = {key: value for key, value in config.to_dict().items() if not key.endswith("_id")}
    shapes = []
    for key in sorted(report["mismatched_keys"]):
        name, *both = key if isinstance(key, tuple) else (key,)
        detail = ""
        if len(both) == 2:
            fields_note = _matching_fields(fields, both[0], both[1], "config.json: ")
            detail = f" ({list(both[0])} in the file, {list(both[1])} expected{fields_note})"
        shapes.append(f"{name}{detail}")
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    untied = {"lm_head.weight"} & set(missing)
    missing = [f"{name} (config.json: tie_word_embeddings false)" if name in untied else name for name in missing]
    return {"missing": missing, "unexpected": unexpected, "of another shape": shapes}


def refuse_misfits(
    label: str, config: "PreTrainedConfig", report: Mapping[str, Any], others: Iterable[str] = ()
) -> None:
    """Refuse weights that are not exactly those of a model's config.

    Args:
        label: the decoder and its folder, for the message.
        config: of the model.
        report: transformers' loading report.
        others: further problems, a line each.

    Raises:
        CheckpointError: keys are missing, unexpected or of another shape, or there are `others`; each is named.
    """
    problems = [f"{kind}: {line}" for kind, lines in _misfits(config, report).items() for line in lines]
    problems += others
    if problems:
        note = _layer_note(config, report)
        raise CheckpointError(f"{label}: the weights do not fit its config.json:{note}\n{listing(problems)}")


def _layer_note(config: "PreTrainedConfig", report: Mapping[str, Any]) -> str:
    """A sentence on the number of layers if it is what does not fit, else nothing."""
    total = getattr(config, "num_hidden_layers", None)
    missing, unexpected = _layers(report["missing_keys"]), _layers(report["unexpected_keys"])
    if not isinstance(total, int):
        return ""
    if beyond := sorted(number for number in unexpected if number >= total):
        return f" config.json says num_hidden_layers {total}, but the weights go up to layer {beyond[-1]}."
    if missing and max(missing) == total - 1 and not unexpected:
        return f" config.json says num_hidden_layers {total}, but the weights end before layer {min(missing)}."
    return ""


def check_tied(model: "PreTrainedModel", folder: Path) -> None:
    """Refuse an output layer that is stored beside a config that says it is the embedding.

    Raises:
        CheckpointError: the file's two differ; transformers would use both until something ties them again.
    """
    head: Any = model.get_output_embeddings()
    embedding: Any = model.get_input_embeddings()
    if head is None or not getattr(model.config, "tie_word_embeddings", False):
        return
    if head.weight is not embedding.weight and head.weight.data_ptr() != embedding.weight.data_ptr():
        raise CheckpointError(
            f"decoder {folder}: tie_word_embeddings is true in config.json, but its weights hold an lm_head.weight of "
            "its own, other than the embedding. Set tie_word_embeddings to false, or remove lm_head.weight."
        )


def check_tokenizer(tokenizer: "PreTrainedTokenizerBase", rows: int, folder: Path, source: Path) -> None:
    """Hold a tokenizer against the rows of the embedding; tokens without a row cannot be embedded.

    Args:
        tokenizer: before tokens are added.
        rows: of the embedding.
        folder: of the decoder, for the message.
        source: of the tokenizer.

    Raises:
        CheckpointError: tokens of its vocabulary have no row. Added tokens, which texts seldom hold, are mentioned.
    """
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}
    own = sorted(beyond.keys() - tokenizer.get_added_vocab().keys(), key=beyond.__getitem__)
    text = f"tokenizer {source} has {len(tokenizer)} tokens, the embedding of decoder {folder} {rows} rows"
    if own:
        raise CheckpointError(
            f"{text} (vocab_size in config.json), so that {len(own)} tokens such as {own[0]!r} have none. The "
            "tokenizer belongs to another model, or the weights were trimmed: name the right one by decoder.tokenizer."
        )
    if beyond:
        warn(f"{text}: {', '.join(map(repr, sorted(beyond)[:3]))} have none and must not be in a prompt")


def _matching_fields(fields: Mapping[str, Any], stored: Sequence[int], expected: Sequence[int], prefix: str) -> str:
    """The fields whose values are the expected sizes that the file has otherwise."""
    sizes = [size for axis, size in enumerate(expected) if axis >= len(stored) or stored[axis] != size]
    names = [
        f"{prefix}{key} {size}"
        for size in dict.fromkeys(sizes)
        for key, value in fields.items()
        if type(value) is int and value == size and size > 1
    ]
    return f" ({', '.join(names)})" if names else ""


def _layers(names: Iterable[Any]) -> set[int]:
    return {int(match[1]) for name in names if (match := LAYER.search(str(name)))}
