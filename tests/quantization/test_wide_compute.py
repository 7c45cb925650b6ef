"""Weights in 16 bits, arithmetic in float32: the numbers are those of the widened weights."""

import pytest
import torch
from torch import nn

from nota_cli.quantization.wide_compute import HalfStoredLinear, compute_in_float32


class Part(nn.Module):
    """An embedding tied to an output layer, a norm, a convolution, a linear layer larger than a block."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 24)
        self.convolution = nn.Conv1d(24, 24, 3, padding=1)
        self.norm = nn.LayerNorm(24)
        self.up, self.down = nn.Linear(24, 20_000), nn.Linear(20_000, 24, bias=False)
        self.head = nn.Linear(24, 50, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("table", torch.linspace(0, 1, 24))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.convolution(self.embedding(ids).transpose(1, 2)).transpose(1, 2)
        return self.head(self.down(torch.relu(self.up(self.norm(x) + self.table))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_computes_with_the_widened_weights_and_holds_them_in_16_bits(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    part = Part().to(dtype)
    wide = Part()
    wide.load_state_dict({name: tensor.float() for name, tensor in part.state_dict().items()})
    assert compute_in_float32(part)
    ids = torch.arange(12).view(2, 6)
    actual = part(ids)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, wide(ids), atol=1e-5, rtol=1e-5)
    assert isinstance(part.up, HalfStoredLinear)
    assert part.head.weight is part.embedding.weight
    assert {part.up.weight.dtype, part.down.weight.dtype, part.embedding.weight.dtype} == {dtype}
    assert part.norm.weight.dtype == part.convolution.weight.dtype == part.table.dtype == torch.float32


def test_a_part_in_float32_is_left_as_it_is() -> None:
    part = Part()
    assert not compute_in_float32(part)
    assert type(part.up) is nn.Linear
