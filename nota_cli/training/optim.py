"""Optimizer and learning rate, as the organisers set them."""

import math

import torch
from torch import nn

from nota_cli.recipe.training import Train


def make_optimizer(parameters: list[tuple[str, nn.Parameter]], spec: Train) -> torch.optim.AdamW:
    """AdamW whose weight decay leaves one-dimensional parameters (biases, norms) alone."""
    decayed = [parameter for _, parameter in parameters if parameter.ndim > 1]
    plain = [parameter for _, parameter in parameters if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": spec.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=spec.learning_rate, betas=(0.9, spec.beta2))


def learning_rate(step: int, spec: Train) -> float:
    """Linear warm-up from `warmup_rate`, then a cosine over all steps down to `minimum_rate`."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / spec.steps)))
    rate = spec.minimum_rate + (spec.learning_rate - spec.minimum_rate) * cosine
    if step < spec.warmup_steps:
        return spec.warmup_rate + (spec.learning_rate - spec.warmup_rate) * step / spec.warmup_steps
    return rate
