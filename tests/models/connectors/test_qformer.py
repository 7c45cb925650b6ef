import pytest
import torch
from torch.nn import functional as F

from nota_cli.models.connectors.qformer import QFormer, _Attention
from nota_cli.recipe.schema import Connector as Spec

SMALL = Spec(hidden_size=16, layers=1, heads=2, intermediate_size=32, dropout=0)


def states(batch: int, length: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(seed))


def test_thirty_seconds_give_88_windows_and_the_rest_is_dropped() -> None:
    connector = QFormer(SMALL, 8, 4, 12).eval()
    speech, audio = states(1, 1500, 8, 0), states(1, 100, 4, 1)
    embeds, mask = connector(speech, None, audio, None)
    assert embeds.shape == (1, 88, 12)
    assert bool(mask.all())
    changed = speech.clone()
    changed[:, 88 * 17 :] *= -1
    assert torch.equal(connector(changed, None, audio, None)[0], embeds)
    changed[:, 87 * 17] *= -1
    assert not torch.equal(connector(changed, None, audio, None)[0], embeds)


def test_the_longer_stream_sets_the_length() -> None:
    connector = QFormer(SMALL, 8, 4, 12).eval()
    assert connector(states(1, 17, 8, 0), None, states(1, 51, 4, 1), None)[0].shape[1] == 3
    assert connector(states(1, 51, 8, 0), None, states(1, 17, 4, 1), None)[0].shape[1] == 3


def test_a_clip_at_its_own_length_keeps_its_last_part_filled_window() -> None:
    connector = QFormer(SMALL, 8, None, 12).eval()
    speech = states(2, 40, 8, 0)
    lengths = torch.tensor([40, 18])
    mask = torch.arange(40) < lengths[:, None]
    embeds, alive = connector(speech, mask)
    assert alive.tolist() == [[True, True, True], [True, True, False]]
    noisy = torch.where(mask.unsqueeze(-1), speech, torch.full_like(speech, 9.0))
    again, _ = connector(noisy, mask)
    torch.testing.assert_close(again[alive], embeds[alive])
    alone, _ = connector(speech[1:, :18], mask[1:, :18])
    torch.testing.assert_close(alone[0], embeds[1, :2], rtol=1e-5, atol=1e-6)


def test_more_queries_give_more_embeddings_a_window() -> None:
    connector = QFormer(SMALL.model_copy(update={"queries": 3}), 8, None, 12).eval()
    embeds, mask = connector(states(1, 34, 8, 0), None)
    assert embeds.shape == (1, 6, 12)
    assert mask.shape == (1, 6)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_of_few_queries_and_its_gradients_are_those_with_keys_and_values(
    masked: bool, dropout: float
) -> None:
    torch.manual_seed(0)
    attention = _Attention(16, 2, 12, dropout)
    queries, memory = states(5, 2, 16, 0), states(5, 9, 12, 1)
    mask = (torch.arange(9) < torch.tensor([9, 4, 1, 7, 9])[:, None]) if masked else None

    def results(few: bool) -> list[torch.Tensor]:
        given = [queries.clone().requires_grad_(), memory.clone().requires_grad_()]
        attention.zero_grad()
        torch.manual_seed(1)  # dropout draws the same
        if few:
            found = attention(*given, mask)
        else:
            heads = [
                x.unflatten(-1, (2, -1)).transpose(1, 2)
                for x in (attention.query(given[0]), attention.key(given[1]), attention.value(given[1]))
            ]
            wide = None if mask is None else mask[:, None, None, :]
            attended = F.scaled_dot_product_attention(*heads, attn_mask=wide, dropout_p=dropout)
            found = attended.transpose(1, 2).flatten(2)
        found.square().sum().backward()
        return [found.detach(), *(x.grad for x in given), *(each.grad for each in attention.parameters())]

    assert queries.size(1) * 4 <= memory.size(1)
    for ours, theirs in zip(results(True), results(False), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_in_training_without_dropout_it_embeds_what_it_does_later() -> None:
    torch.manual_seed(0)
    connector = QFormer(SMALL, 8, None, 12)
    speech, mask = states(2, 40, 8, 0), torch.arange(40) < torch.tensor([40, 18])[:, None]
    (trained, alive), (later, _) = connector.train()(speech, mask), connector.eval()(speech, mask)
    torch.testing.assert_close(trained[alive], later[alive], rtol=1e-5, atol=1e-5)
    assert not torch.equal(trained, later)
