"""Drawing instead of searching, inside transformers' own `generate`."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from nota_cli.generation.draws import Sampling
from nota_cli.generation.sampling import perturb


class DrawnTokens(LogitsProcessor):
    """Makes transformers' search for the likeliest token a draw.

    Args:
        sampling: from what is drawn.
        seeds: one a row (`nota_cli.generation.draws.row_seeds`).
        prompt: tokens of the prompt that `generate` counts with the answer's.
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int], prompt: int = 0) -> None:
        self.sampling, self.seeds, self.prompt = sampling, torch.tensor(seeds)[:, None], prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores whose largest is the token drawn."""
        self.seeds = self.seeds.to(scores.device)
        step = torch.tensor([input_ids.size(1) - self.prompt], device=scores.device)
        return perturb(scores, self.seeds, step, self.sampling)
