"""The rows of a decoder's weights that stand for tokens: counted, and some of them taken."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nota_cli.errors import CheckpointError, listing
from nota_cli.models.vocabulary import mean_row
from nota_cli.weights.files import tensor_shapes

PER_TOKEN = re.compile(r"(^|\.)(embed_tokens\.weight|lm_head\.weight|lm_head\.bias)$")
EMBEDDING_OR_HEAD = re.compile(r"(^|\.)(embed_tokens|lm_head)\.")


def count_rows(folder: Path, files: Sequence[Path]) -> int:
    """Rows of the embedding, and of the output layer if it is stored.

    Raises:
        CheckpointError: one of them is quantized, there is no embedding, or their rows differ.
    """
    everything = {name: shape for file in files for name, shape in tensor_shapes(file).items()}
    sizes = {name: shape for name, shape in everything.items() if EMBEDDING_OR_HEAD.search(name)}
    packed = [name for name in sizes if not PER_TOKEN.search(name)]
    if packed:
        raise CheckpointError(
            f"decoder {folder}: embedding or output layer is quantized; trim first.\n{listing(packed)}"
        )
    rows = {shape[0] for shape in sizes.values()}
    if len(rows) != 1 or not any(name.endswith("embed_tokens.weight") for name in sizes):
        stored = [f"{name}: {list(shape)}" for name, shape in sizes.items()] or ["neither"]
        raise CheckpointError(
            f"decoder {folder}: an embed_tokens.weight is needed, and if stored an lm_head of as many rows; there are\n"
            f"{listing(stored)}"
        )
    return rows.pop()


def take_rows(name: str, tensor: Tensor, old_ids: Sequence[int | None]) -> Tensor:
    """What is left of a decoder's tensor: where its rows are tokens, those of `old_ids`, and else all of it.

    Args:
        name: of the tensor.
        tensor: `[rows, width]`, or `[rows]` for a bias; of any shape where rows are no tokens.
        old_ids: the row to take for each token that stays. None makes a new row, the mean of all (of a bias: zero), as
            where the full decoder is loaded.
    """
    if not PER_TOKEN.search(name):
        return tensor
    taken = tensor[torch.tensor([number for number in old_ids if number is not None])]
    fresh = len(old_ids) - len(taken)
    if not fresh:
        return taken
    mean = mean_row(tensor) if tensor.ndim == 2 else tensor.new_zeros(())
    return torch.cat([taken, mean.expand(fresh, *taken.shape[1:])])
