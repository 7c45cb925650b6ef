"""Draws in numpy are those of torch."""

import numpy as np
import pytest
import torch

from nota_cli.generation.draws import Sampling, perturbed, row_seeds
from nota_cli.generation.sampling import perturb
from nota_cli.prompts import Query


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, 5), Sampling(1.3, 0, 0.8), Sampling(1.0, 7, 0.5)])
def test_noise_and_what_is_left_out_are_those_of_torch(sampling: Sampling) -> None:
    logits = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32) * 3
    seeds = row_seeds(7, [Query("asr", key=key) for key in "abc"])
    for step in (0, 1, 199):
        ours = perturbed(logits, np.array(seeds), step, sampling)
        tensors = torch.from_numpy(logits), torch.tensor(seeds)[:, None], torch.tensor([step])
        theirs = perturb(*tensors, sampling).numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
        np.testing.assert_array_equal(ours.argmax(1), theirs.argmax(1))
