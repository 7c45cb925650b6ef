"""Drawing tokens with nothing but arithmetic: the likeliest token once noise is added (the Gumbel-max trick).

The noise is a hash of a row's seed, of the token's place in the answer and of the token, not the next number of a
generator that all rows share; so what a row draws depends neither on its neighbours nor on what ran before it.
"""

import torch
from torch import Tensor

from nota_cli.generation.draws import BITS, MIX, STEP, TOKEN, Sampling


def perturb(logits: Tensor, seeds: Tensor, step: Tensor, sampling: Sampling) -> Tensor:
    """Logits whose largest is a token drawn as `sampling` says.

    Args:
        logits: `[batch, vocabulary]`, penalties included.
        seeds: `[batch, 1]`, of `row_seeds`.
        step: `[1]`, the token's place in the answer.
        sampling: temperature and what is left out.

    Returns:
        float32 `[batch, vocabulary]`.
    """
    scores = logits.float() / sampling.temperature
    return _nucleus(scores, sampling) + _gumbel(seeds, step, logits.size(-1))


def _nucleus(scores: Tensor, sampling: Sampling) -> Tensor:
    """Scores of tokens beyond the `top_k` likeliest, then of those beyond `top_p` of what is left, at -inf."""
    count = min(sampling.top_k or scores.size(-1), scores.size(-1))
    if count == scores.size(-1) and sampling.top_p == 1.0:
        return scores
    best = scores.topk(count).values
    likely = best.softmax(-1)
    outside = likely.cumsum(-1) - likely >= sampling.top_p
    outside[:, 0] = False
    least = best.masked_fill(outside, torch.inf).amin(-1, keepdim=True)
    return scores.masked_fill(scores < least, -torch.inf)


def _gumbel(seeds: Tensor, step: Tensor, vocabulary: int) -> Tensor:
    """Standard Gumbel noise `[batch, vocabulary]`."""
    rows = _mix(seeds + step * STEP)
    tokens = torch.arange(vocabulary, device=seeds.device) * TOKEN
    hashed = _mix(rows + tokens)
    uniform = (_shift(hashed, 64 - BITS).float() + 0.5) * 2.0**-BITS
    return -(-uniform.log()).log()


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift(value, 30)) * MIX[0]
    value = (value ^ _shift(value, 27)) * MIX[1]
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """To the right with zeros from the left, which torch's shift of signed numbers does not do."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
