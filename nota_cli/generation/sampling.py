"""Drawing tokens with nothing but arithmetic: the likeliest token once noise is added (the Gumbel-max trick).

The noise is a hash of a row's seed, of the token's place in the answer and of the token, not the next number of a
generator that all rows share; so what a row draws depends neither on its neighbours nor on what ran before it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nota_cli.prompts import Query

STEP = -0x61C8864680B583EB  # odd numbers near 2^64 over the golden ratio and its like, as signed ones
TOKEN = -0x3B314601E57A13AD
MIX = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)  # SplitMix64's finaliser (Steele et al. 2014)
BITS = 23  # of a hash that become the uniform number: as many as float32 holds with a half added


@dataclass(frozen=True)
class Sampling:
    """What a token is drawn from; see `nota_cli.recipe.schema.GenerateTask`."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


def row_seeds(seed: int, queries: Sequence[Query]) -> list[int]:
    """A number of 64 bits for each row, of the recipe's seed, what is asked and the clip's own key."""
    asked = (f"{seed}\0{query.key}\0{query.task}\0{query.question or ''}" for query in queries)
    return [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True) for text in asked]


def perturb(logits: Tensor, seeds: Tensor, step: Tensor, how: Sampling) -> Tensor:
    """Logits whose largest is a token drawn as `how` says.

    Args:
        logits: `[batch, vocabulary]`, penalties included.
        seeds: `[batch, 1]`, of `row_seeds`.
        step: `[1]`, the token's place in the answer.
        how: temperature and what is left out.

    Returns:
        float32 `[batch, vocabulary]`.
    """
    scores = logits.float() / how.temperature
    return _nucleus(scores, how) + _gumbel(seeds, step, logits.size(-1))


def _nucleus(scores: Tensor, how: Sampling) -> Tensor:
    """Scores of tokens beyond the `top_k` likeliest, then of those beyond `top_p` of what is left, at -inf."""
    count = min(how.top_k or scores.size(-1), scores.size(-1))
    if count == scores.size(-1) and how.top_p == 1.0:
        return scores
    best = scores.topk(count).values
    likely = best.softmax(-1)
    outside = likely.cumsum(-1) - likely >= how.top_p
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


def _shift(value: Tensor, places: int) -> Tensor:
    """To the right with zeros from the left, which torch's shift of signed numbers does not do."""
    return (value >> places) & ((1 << (64 - places)) - 1)
