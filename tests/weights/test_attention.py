"""BEATs' attention in parts against the same attention with its whole bias at once."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nota_cli.weights import attention
from nota_cli.weights.attention import gated_attention

BATCH, HEADS, STATES, WIDTH = 3, 2, 23, 8


def inputs() -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(3)
    shapes = {name: (BATCH, HEADS, STATES, WIDTH) for name in ("query", "key", "value")}
    shapes |= {"gate": (BATCH, HEADS, STATES, 1), "by_distance": (HEADS, 2 * STATES - 1)}
    return {name: torch.randn(shape, generator=made).requires_grad_() for name, shape in shapes.items()}


def whole(query: Tensor, key: Tensor, value: Tensor, gate: Tensor, by_distance: Tensor, mask: Tensor | None) -> Tensor:
    places = torch.arange(STATES)
    bias = gate * by_distance[:, places[None] - places[:, None] + STATES - 1]  # [B, heads, query, key]
    if mask is not None:
        bias = bias.masked_fill(~mask[:, None, None], -torch.inf)
    return F.softmax(query @ key.transpose(-1, -2) / WIDTH**0.5 + bias, dim=-1) @ value


@pytest.mark.parametrize("most", [1, 500, HEADS * STATES**2, 2 * HEADS * STATES**2, 10**9])
@pytest.mark.parametrize("masked", [False, True])
def test_parts_of_any_size_give_the_states_and_gradients_of_the_whole(
    most: int, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "BIAS_AT_ONCE", {"cpu": most})
    mask = torch.arange(STATES) < torch.tensor([[STATES], [7], [1]]) if masked else None
    weights = torch.randn(BATCH, HEADS, STATES, WIDTH, generator=torch.Generator().manual_seed(4))
    found, gradients = [], []
    for attend in (gated_attention, whole):
        given = inputs()
        out = attend(**given, mask=mask)
        (out * weights).sum().backward()
        found.append(out.detach())
        gradients.append({name: tensor.grad for name, tensor in given.items()})
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4, msg=name)


def test_no_part_is_larger_than_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    attend = F.scaled_dot_product_attention

    def noted(*tensors: Tensor, attn_mask: Tensor, dropout_p: float) -> Tensor:
        sizes.append(attn_mask.numel())
        return attend(*tensors, attn_mask=attn_mask, dropout_p=dropout_p)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    for most in (500, HEADS * STATES**2, 2 * HEADS * STATES**2):
        monkeypatch.setattr(attention, "BIAS_AT_ONCE", {"cpu": most})
        sizes.clear()
        with torch.no_grad():
            gated_attention(**inputs())
        assert sum(sizes) == BATCH * HEADS * STATES**2
        assert max(sizes) <= most
