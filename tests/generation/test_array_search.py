"""Beam search in numpy finds what transformers' beam search finds, whatever the penalties and ends."""

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList, Qwen2Config, Qwen2ForCausalLM, RepetitionPenaltyLogitsProcessor

from nota_cli.generation.array_search import beam_search, search_one
from nota_cli.generation.options import DecodingOptions

VOCABULARY, LONGEST, PAD = 13, 8, 0


class Replayed:
    """A decoder without a cache: it reads everything again for each token."""

    def __init__(self, model: Qwen2ForCausalLM, prompts: torch.Tensor) -> None:
        self.model, self.embeds = model, prompts

    @torch.no_grad()
    def logits(self) -> np.ndarray:
        return self.model(inputs_embeds=self.embeds).logits[:, -1].numpy()

    def step(self, tokens: np.ndarray) -> np.ndarray:
        new = self.model.get_input_embeddings()(torch.from_numpy(tokens))[:, None]
        self.embeds = torch.cat([self.embeds, new.detach()], dim=1)
        return self.logits()

    def choose(self, rows: np.ndarray) -> None:
        self.embeds = self.embeds[torch.from_numpy(np.asarray(rows))]


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=VOCABULARY, num_key_value_heads=2, initializer_range=0.6, **sizes)
    return Qwen2ForCausalLM(config).eval()


@pytest.mark.parametrize("ends", [(1,), (1, 5), (2, 3, 4)])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.0])
@pytest.mark.parametrize("penalty", [1.0, 1.5])
@pytest.mark.parametrize("beams", [1, 2, 4])
@torch.no_grad()
def test_ids_are_those_of_transformers(
    model: Qwen2ForCausalLM, ends: tuple[int, ...], length_penalty: float, penalty: float, beams: int
) -> None:
    prompts = torch.randn(6, 3, 16, generator=torch.Generator().manual_seed(5))
    processors = [] if penalty == 1.0 else [RepetitionPenaltyLogitsProcessor(penalty)]
    theirs = model.generate(
        inputs_embeds=prompts,
        attention_mask=torch.ones(6, 3, dtype=torch.long),
        max_new_tokens=LONGEST,
        num_beams=beams,
        do_sample=False,
        length_penalty=length_penalty,
        logits_processor=LogitsProcessorList(processors),
        eos_token_id=list(ends),
        pad_token_id=PAD,
    )
    decoder = Replayed(model, prompts)
    options = DecodingOptions(LONGEST, ends, PAD, penalty)
    if beams == 1:
        ours = search_one(decoder, decoder.logits(), options)
    else:
        ours = beam_search(decoder, decoder.logits(), options, beams, length_penalty)
    for row, ids in zip(theirs.tolist(), ours, strict=True):
        end = next((index for index, token in enumerate(row) if token in ends), len(row) - 1)
        assert ids == row[: end + 1]
