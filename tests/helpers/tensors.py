"""Tensors that look random and are the same in every run."""

import torch
from torch import Tensor, nn


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers of the shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shake(model: nn.Module, scale: float) -> None:
    """Add noise to every parameter: zero biases and unit gains would hide mistakes."""
    for parameter in model.parameters():
        parameter.data += scale * torch.randn_like(parameter)
