"""Optimizer and learning rate, as the organisers set them."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from nota_cli.recipe.training import Train
from nota_cli.training.sharding import is_sharded, own_part, whole


def make_optimizer(parameters: list[tuple[str, nn.Parameter]], spec: Train) -> torch.optim.AdamW:
    """AdamW whose weight decay leaves one-dimensional parameters (biases, norms) alone.

    Sharded parameters have groups of their own: one operation takes none of them together with others.
    """
    groups = []
    for sharded in (False, True):
        some = [parameter for _, parameter in parameters if is_sharded(parameter) == sharded]
        decayed = [parameter for parameter in some if parameter.ndim > 1]
        plain = [parameter for parameter in some if parameter.ndim <= 1]
        groups += [{"params": decayed, "weight_decay": spec.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=spec.learning_rate, betas=(0.9, spec.beta2)
    )


@torch.no_grad()
def clip_adaptively(parameters: Iterable[nn.Parameter], ratio: float) -> None:
    """Cut each row of a gradient to `ratio` times the norm of the weight's own row (AGC, Brock et al. 2021).

    A one-dimensional parameter is one row. Rows near zero count as of norm 0.001, so that they can move at all.
    """
    for parameter in parameters:
        if parameter.grad is None:
            continue
        inner = tuple(range(1 if parameter.ndim > 1 else 0, parameter.ndim))
        norm, own = (_norm(x, inner) for x in (parameter.grad, parameter))
        own_part(parameter.grad).mul_((ratio * own.clamp(min=1e-3) / norm.clamp(min=1e-6)).clamp(max=1.0))


def _norm(tensor: torch.Tensor, inner: tuple[int, ...]) -> torch.Tensor:
    """Norm over the dimensions `inner`; of a sharded tensor, that of the rows which this process has."""
    if is_sharded(tensor) and 0 in inner:  # shards are cut along the first dimension
        return whole(torch.linalg.vector_norm(tensor)).reshape([1] * tensor.ndim)
    norm: torch.Tensor = torch.linalg.vector_norm(own_part(tensor), dim=inner, keepdim=True)
    return norm


def learning_rate(step: int, spec: Train) -> float:
    """Linear warm-up from `warmup_rate`, then a cosine over all steps down to `minimum_rate`."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / spec.steps)))
    rate = spec.minimum_rate + (spec.learning_rate - spec.minimum_rate) * cosine
    if step < spec.warmup_steps:
        return spec.warmup_rate + (spec.learning_rate - spec.warmup_rate) * step / spec.warmup_steps
    return rate
