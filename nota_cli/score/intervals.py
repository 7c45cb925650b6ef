"""Bootstrap confidence intervals (Efron, 1979): how far a score would move with other clips of the same kind."""

from collections.abc import Sequence

import numpy as np

SEED = 0
PERCENT = 95
_AT_ONCE = 2_000_000  # draws held in memory at a time


def interval(numerators: Sequence[float], denominators: Sequence[float], samples: int) -> tuple[float, float] | None:
    """The 95% percentile interval of sum(numerators) / sum(denominators), clips drawn with replacement.

    The draws are seeded: the same clips give the same interval, and two figures of one report the same draws.

    Args:
        numerators: one a clip.
        denominators: as many; ones, for a mean.
        samples: how often all clips are drawn anew.

    Returns:
        Low and high, or None for fewer than two clips or no samples.
    """
    count = len(numerators)
    if count < 2 or samples < 1:
        return None
    above, below = np.asarray(numerators, float), np.asarray(denominators, float)
    draw = np.random.default_rng(SEED)
    rates = []
    chunk = max(1, _AT_ONCE // count)
    for start in range(0, samples, chunk):
        picked = draw.integers(0, count, (min(chunk, samples - start), count), dtype=np.int32)
        total = below[picked].sum(axis=1)
        rates.append(above[picked].sum(axis=1)[total > 0] / total[total > 0])
    drawn = np.concatenate(rates)
    if not drawn.size:
        return None
    tail = (100 - PERCENT) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return float(low), float(high)


def paired_interval(
    numerators: Sequence[float], others: Sequence[float], denominators: Sequence[float], samples: int
) -> tuple[float, float] | None:
    """The 95% percentile interval of sum(numerators - others) / sum(denominators): how far two systems differ.

    Both systems answer the clips that are drawn, so that a clip that is hard for both counts for neither.

    Args:
        numerators: one a clip, of the one system.
        others: as many, of the other system over the same clips.
        denominators: as many, the same for both; ones, for a mean.
        samples: how often all clips are drawn anew.

    Returns:
        Low and high, or None for fewer than two clips or no samples.
    """
    return interval([one - other for one, other in zip(numerators, others, strict=True)], denominators, samples)
