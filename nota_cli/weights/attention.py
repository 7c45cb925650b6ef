"""Attention: which of transformers' implementations a decoder takes, and BEATs' own."""

from collections.abc import Iterator
from math import ceil

import torch
import torch.nn.functional as F

BIAS_AT_ONCE = {"cpu": 2_500_000}
"""Numbers of BEATs' gated bias that are made at once, by device type; on a CPU 10 MB, which stay in its caches."""
BIAS_ELSEWHERE = 2**26


def default_attention(config: object) -> str:
    """Gemma 2 caps its attention scores, which the fused kernels leave out without a word."""
    return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"


def gated_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    gate: torch.Tensor,
    by_distance: torch.Tensor,
    mask: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Attention with a bias of the distance, which each query weighs for itself (WavLM, Chen et al. 2021).

    It goes part by part: the whole bias, of `[B, heads, S, S]`, would be the largest thing in the model, and making
    and reading it in memory cost more than the attention itself.

    Args:
        query: `[B, heads, S, width]`, as `key` and `value`.
        gate: `[B, heads, S, 1]`.
        by_distance: `[heads, 2S - 1]`, the bias for key - query = -(S - 1) .. S - 1.
        mask: `[B, S]`, True = real; None for all.
        dropout: probability that an attention weight is dropped.

    Returns:
        `[B, heads, S, width]`.
    """
    batch, heads, n_states, _ = query.shape
    if torch.compiler.is_exporting():  # shapes are symbols there, and no number of parts can be chosen
        positions = torch.arange(n_states, device=query.device)
        bias = gate * by_distance[:, positions[None, :] - positions[:, None] + n_states - 1]
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    most = BIAS_AT_ONCE.get(query.device.type, BIAS_ELSEWHERE)
    queries_at_once = _even(n_states, max(1, most // (heads * n_states)))
    clips_at_once = max(1, most // (heads * n_states * queries_at_once))
    # From the last query to the first, the keys of each are S neighbours in by_distance.
    query, gate = query.flip(2), gate.flip(2)
    rows = []
    for clips in _slices(batch, clips_at_once):
        hidden = None if mask is None else ~mask[clips, None, None]
        parts = []
        for part in _slices(n_states, queries_at_once):
            # Contiguous, or the product is laid out with the keys apart, which the kernel first has to copy.
            near = by_distance[:, part.start : part.stop + n_states - 1].unfold(-1, n_states, 1).contiguous()
            bias = gate[clips, :, part] * near
            if hidden is not None:
                bias = bias.masked_fill(hidden, -torch.inf)
            # The published code forms the scores at 1/32 scale and subtracts each row's maximum, so that they fit half
            # precision; softmax is blind to both, and this attention keeps its scores in float32 anyway.
            bias = bias.to(query.dtype)
            parts.append(
                F.scaled_dot_product_attention(
                    query[clips, :, part], key[clips], value[clips], attn_mask=bias, dropout_p=dropout
                )
            )
        rows.append(torch.cat(parts, dim=2))
    return torch.cat(rows).flip(2)


def _even(count: int, most: int) -> int:
    """The size of parts of at most `most` that are about alike."""
    return ceil(count / ceil(count / most))


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
