"""A full decoder cut down to a trimmed tokenizer's tokens as it is loaded."""

import json
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from nota_cli.errors import CheckpointError

MAPPING = "vocabulary.json"
"""Beside a trimmed tokenizer: `old_ids`, for each of its tokens the row in the full decoder (null for a new one), and
`vocab_size`, how many rows that has."""


def keep_tokens(model: PreTrainedModel, tokenizer_folder: Path) -> None:
    """Drop the rows of `model`'s embedding and output layer that the tokenizer in `tokenizer_folder` has no token for.

    Does nothing where the folder has no `vocabulary.json`, or the model was trimmed before by the same.

    Raises:
        CheckpointError: the file is damaged, was made for a decoder of another size, or asks for rows that are not
            there.
    """
    file = tokenizer_folder / MAPPING
    if not file.is_file():
        return
    try:
        mapping = json.loads(file.read_text(encoding="utf-8"))
        full, old_ids = int(mapping["vocab_size"]), list(mapping["old_ids"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file}: not a file that `nota prune-vocabulary` wrote ({error}). Copy it again."
        ) from error
    rows = model.get_input_embeddings().weight.size(0)
    if rows == len(old_ids):
        return
    if rows != full:
        raise CheckpointError(
            f"{file} was made for a decoder of {full:,} tokens, and this one has {rows:,}. Give the decoder that it was "
            "made for, or trim this one with `nota prune-vocabulary`."
        )
    if None in old_ids:
        raise CheckpointError(f"{file}: holds tokens that the full decoder has no row for; trim without `pad_token`.")
    kept = torch.tensor(old_ids)
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    tied = layers[1] is not None and layers[1].weight is layers[0].weight
    for layer in layers[: 1 if tied else 2]:
        if layer is not None:
            layer.weight = nn.Parameter(
                layer.weight.detach()[kept.to(layer.weight.device)].clone(), requires_grad=False
            )
    if tied:
        layers[1].weight = layers[0].weight
    layers[0].num_embeddings = len(old_ids)
    if layers[0].padding_idx is not None:
        layers[0].padding_idx = new_id(layers[0].padding_idx, old_ids)
    if layers[1] is not None:
        layers[1].out_features = len(old_ids)
    model.config.get_text_config().vocab_size = len(old_ids)
    for config in (model.config, model.generation_config):
        for key, value in config.to_dict().items():
            if key.endswith("token_id") and value is not None:
                several = isinstance(value, list)
                ids = [new_id(item, old_ids) for item in (value if several else [value])]
                ids = [item for item in ids if item is not None]
                setattr(config, key, (ids or None) if several else (ids[0] if ids else None))


def new_id(old: int, old_ids: list[int]) -> int | None:
    """Where a token of the full vocabulary is now; None if it was dropped."""
    return old_ids.index(old) if old in old_ids else None
