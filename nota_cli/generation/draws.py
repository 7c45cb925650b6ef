"""What tokens are drawn from, and the draws in numpy: the same as `nota_cli.generation.sampling` makes with torch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nota_cli.prompts import Query

Array = np.ndarray[Any, Any]

STEP = -0x61C8864680B583EB  # odd numbers near 2^64 over the golden ratio and its like, as signed ones
TOKEN = -0x3B314601E57A13AD
MIX = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)  # SplitMix64's finaliser (Steele et al. 2014)
BITS = 23  # of a hash that become the uniform number: as many as float32 holds with a half added
UNSIGNED = 2**64


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


def perturbed(logits: Array, seeds: Array, step: int, sampling: Sampling) -> Array:
    """Logits whose largest is a token drawn as `sampling` asks.

    Args:
        logits: `[batch, vocabulary]`, penalties included.
        seeds: int64 `[batch]`, of `row_seeds`.
        step: the token's place in the answer.
        sampling: temperature and what is left out.

    Returns:
        float32 `[batch, vocabulary]`.
    """
    scores = logits.astype(np.float32) / np.float32(sampling.temperature)
    return _nucleus(scores, sampling) + _gumbel(seeds, step, scores.shape[1])


def _nucleus(scores: Array, sampling: Sampling) -> Array:
    size = scores.shape[1]
    count = min(sampling.top_k or size, size)
    if count == size and sampling.top_p == 1.0:
        return scores
    best = -np.sort(-scores, axis=1)[:, :count]
    likely = np.exp(best - best[:, :1])
    likely /= likely.sum(axis=1, keepdims=True)
    outside = np.cumsum(likely, axis=1) - likely >= sampling.top_p
    outside[:, 0] = False
    least = np.where(outside, np.inf, best).min(axis=1, keepdims=True)
    return np.where(scores < least, -np.inf, scores)


def _gumbel(seeds: Array, step: int, vocabulary: int) -> Array:
    """Standard Gumbel noise `[batch, vocabulary]`."""
    with np.errstate(over="ignore"):  # modulo 2^64 is meant
        rows = _mix(seeds.astype(np.int64).view(np.uint64)[:, None] + np.uint64(step * STEP % UNSIGNED))
        hashed = _mix(rows + np.arange(vocabulary, dtype=np.uint64) * np.uint64(TOKEN % UNSIGNED))
    uniform = ((hashed >> np.uint64(64 - BITS)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-BITS)
    noise: Array = -np.log(-np.log(uniform))
    return noise


def _mix(value: Array) -> Array:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(MIX[0] % UNSIGNED)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(MIX[1] % UNSIGNED)
    mixed: Array = value ^ (value >> np.uint64(31))
    return mixed
