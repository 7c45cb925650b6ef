"""A full decoder cut down to a trimmed tokenizer's tokens as it is loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nota_cli.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

MAPPING = "vocabulary.json"
"""Beside a trimmed tokenizer: `old_ids`, for each of its tokens the row in the full decoder (null for a new one), and
`vocab_size`, how many rows that has."""

COLUMNS = 128  # of an embedding, in float32 at a time
SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")


def kept_rows(tokenizer_folder: Path, rows: int) -> list[int] | None:
    """Which rows of a decoder's embedding the tokenizer in a folder has tokens for, in the tokenizer's order.

    Args:
        tokenizer_folder: where `vocabulary.json` may lie.
        rows: how many the decoder's embedding has.

    Returns:
        None where nothing is to be cut: there is no such file, or the decoder was trimmed before by the same.

    Raises:
        CheckpointError: the file is damaged, was made for a decoder of another size, or asks for rows that are not
            there.
    """
    file = tokenizer_folder / MAPPING
    if not file.is_file():
        return None
    try:
        mapping = json.loads(file.read_text(encoding="utf-8"))
        full, old_ids = int(mapping["vocab_size"]), list(mapping["old_ids"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file}: not a file that `nota prune-vocabulary` wrote ({error}). Copy it again."
        ) from error
    if rows == len(old_ids):
        return None
    if rows != full:
        raise CheckpointError(
            f"{file} was made for a decoder of {full:,} tokens, and this one has {rows:,}. Give the decoder that it "
            "was made for, or trim this one with `nota prune-vocabulary`."
        )
    if None in old_ids:
        raise CheckpointError(f"{file}: holds tokens that the full decoder has no row for; trim without `pad_token`.")
    bad = [item for item in old_ids if not isinstance(item, int) or not 0 <= item < full]
    if bad:
        raise CheckpointError(f"{file}: {bad[0]!r} is no row of a decoder of {full:,} tokens. Copy the file again.")
    return old_ids


def keep_tokens(model: Any, tokenizer_folder: Path) -> None:
    """Drop the rows of `model`'s embedding and output layer that the tokenizer in `tokenizer_folder` has no token for.

    Does nothing where `kept_rows` is None. The model is transformers'.

    Raises:
        CheckpointError: as `kept_rows`.
    """
    old_ids = kept_rows(tokenizer_folder, model.get_input_embeddings().weight.size(0))
    if old_ids is None:
        return
    import torch  # here: whoever asks for the rows alone needs no torch

    kept = torch.tensor(old_ids)
    tables = [table for table in (model.get_input_embeddings(), model.get_output_embeddings()) if table is not None]
    rows_kept = [table.weight.detach()[kept.to(table.weight.device)] for table in tables]
    padding, new = tables[0].padding_idx, {old: new_id for new_id, old in enumerate(old_ids)}
    model.resize_token_embeddings(len(old_ids), mean_resizing=False)  # minds the sizes that are written elsewhere, too
    tables = [table for table in (model.get_input_embeddings(), model.get_output_embeddings()) if table is not None]
    with torch.no_grad():
        for table, weight in zip(tables, rows_kept, strict=True):
            table.weight.copy_(weight)
    tables[0].padding_idx = new.get(padding)
    for config in (model.config, model.generation_config):
        values = config.to_dict()
        for key, value in renumber(values, new).items():
            if value != values[key]:
                setattr(config, key, value)


def mean_row(weight: "Tensor") -> "Tensor":
    """The mean of the rows of an embedding `[rows, width]`, in its own type: what a new token gets."""
    import torch

    # By columns: a mean in another type first copies all that it is taken of into that type.
    parts = weight.split(COLUMNS, dim=1)
    return torch.cat([part.mean(dim=0, dtype=torch.float32) for part in parts]).to(weight.dtype)


def renumber(values: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """A model's config, or how it generates, for other tokens; an id that is no token's becomes null.

    Args:
        values: as in the file.
        new: for each token that is kept, by its old id, the new one.
    """
    changed: dict[str, Any] = {"vocab_size": len(new)} if "vocab_size" in values else {}
    for key, value in values.items():
        if key.endswith("token_id") or key in SUPPRESSED:
            several = isinstance(value, list)
            changed[key] = [new[item] for item in value if item in new] or None if several else new.get(value)
    return {**values, **changed}
