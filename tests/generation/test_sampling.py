"""Drawn tokens: the right distribution, and of each row alone."""

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from helpers.decoders import ENDS, FAMILIES, HEAD, make_decoder, make_prompts
from nota_cli.generation.draws import Sampling, row_seeds
from nota_cli.generation.options import DecodingOptions
from nota_cli.generation.sampling import perturb
from nota_cli.generation.static_decoder import StaticCacheDecoder
from nota_cli.prompts import Query

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -1.5])


def draws(how: Sampling, count: int = 20_000) -> torch.Tensor:
    seeds = torch.tensor(row_seeds(1, [Query("asr", key=str(row)) for row in range(count)]))[:, None]
    return perturb(LOGITS.expand(count, -1), seeds, torch.tensor([3]), how).argmax(-1)


@pytest.mark.parametrize(
    "how",
    [Sampling(), Sampling(temperature=0.5), Sampling(top_k=3), Sampling(top_p=0.8), Sampling(0.7, 4, 0.9)],
)
def test_tokens_come_as_often_as_transformers_warpers_have_it(how: Sampling) -> None:
    scores = TemperatureLogitsWarper(how.temperature)(None, LOGITS[None])
    if how.top_k:
        scores = TopKLogitsWarper(how.top_k)(None, scores)
    if how.top_p < 1:
        scores = TopPLogitsWarper(how.top_p)(None, scores)
    expected = scores.softmax(-1)[0]
    found = torch.bincount(draws(how), minlength=6) / 20_000
    assert torch.equal(found > 0, expected > 0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.015)  # four standard deviations


def test_draws_of_neighbouring_steps_and_rows_have_nothing_to_do_with_each_other() -> None:
    seeds = torch.tensor([row_seeds(0, [Query("asr", key=key)]) for key in "abcdefgh"])
    steps = [perturb(torch.zeros(8, 4_000), seeds, torch.tensor([step]), Sampling()) for step in range(8)]
    noise = torch.stack(steps).flatten(0, 1)
    together = torch.corrcoef(noise) - torch.eye(64)
    assert float(together.abs().max()) < 0.08  # five standard deviations
    assert abs(float(noise.mean()) - 0.5772) < 0.01
    assert abs(float(noise.var()) - 1.6449) < 0.03


def test_seeds_differ_by_everything_that_is_asked() -> None:
    queries = [Query("asr"), Query("QA", "who"), Query("QA", "what"), Query("asr", key="a"), Query("asr", key="b")]
    seeds = row_seeds(0, queries)
    assert len(set(seeds)) == len(queries)
    assert row_seeds(0, queries[::-1]) == seeds[::-1]
    assert not set(seeds) & set(row_seeds(1, queries))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_draws_the_same_in_any_company(family: str) -> None:
    decoder = make_decoder(family)
    own, rules = StaticCacheDecoder(decoder), DecodingOptions(20, ENDS, 0, 1.2, Sampling(1.5, 40, 0.95))
    embeds, mask = make_prompts(decoder, (20, 9, 7, 12, 20))
    seeds = row_seeds(0, [Query("asr", key=str(row)) for row in range(5)])
    together = own.generate(embeds, mask, rules, [HEAD] * 5, seeds)
    assert len({tuple(row) for row in together.tolist()}) == 5
    for rows in ([0], [1], [4, 2], [3, 1, 0]):
        found = own.generate(embeds[rows], mask[rows], rules, [HEAD] * len(rows), [seeds[row] for row in rows])
        assert torch.equal(found, together[rows][:, : found.size(1)])
    greedy = own.generate(embeds, mask, DecodingOptions(20, ENDS, 0, 1.2), [HEAD] * 5)
    assert not torch.equal(greedy[:, :1], together[:, :1]) or greedy.tolist() != together.tolist()
    assert torch.equal(own.generate(embeds, mask, rules, [HEAD] * 5, seeds), together)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("how", [Sampling(1.5, 40, 0.95), Sampling(0.8)])
def test_a_graph_draws_what_the_cpu_draws(how: Sampling) -> None:
    on_cpu, on_gpu = make_decoder("llama"), make_decoder("llama").to("cuda")
    rules, seeds = DecodingOptions(20, ENDS, 0, 1.2, how), row_seeds(0, [Query("asr", key=key) for key in "abc"])
    for seed in (1, 2):
        embeds, mask = make_prompts(on_cpu, (9, 20, 7), seed)
        expected = StaticCacheDecoder(on_cpu).generate(embeds, mask, rules, [HEAD] * 3, seeds)
        graphs = StaticCacheDecoder(on_gpu)
        for _ in range(2):
            assert torch.equal(graphs.generate(embeds.cuda(), mask.cuda(), rules, [HEAD] * 3, seeds), expected)
