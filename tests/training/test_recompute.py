"""Gradient checkpointing changes no number and keeps less; adaptive clipping against its formula."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from nota_cli.models.families.salmonn_build import train_mode
from nota_cli.recipe.load import load_recipe
from nota_cli.training.optim import clip_adaptively
from nota_cli.training.trainer import Trainer

LORA = ["lora={rank: 2}", "decoder.train=false", "speech_encoder.train=false", "audio_encoder.train=false"]
LORA += ["train.ctc_weight=0", "train.label_weight=0"]


def steps(recipe: Path, settings: list[str]) -> tuple[list[Any], dict[str, torch.Tensor], int]:
    """Two steps; their losses and norms, the weights after them, and the numbers kept for the first one's backward."""
    torch.manual_seed(1)
    trainer = Trainer(load_recipe(str(recipe), settings), Accelerator())
    train_mode(trainer.model)
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    batches = (trainer.batches[index] for index in range(10))
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        done = [trainer.step(0, batches)]
    done.append(trainer.step(1, batches))
    figures = [(step.losses, step.gradient_norm) for step in done]
    return figures, {name: parameter.detach().clone() for name, parameter in trainer.parameters}, kept


@pytest.mark.parametrize("parts", [[], LORA], ids=["all trained", "adapters alone"])
def test_layers_that_are_run_again_change_no_number_and_keep_less(tiny_recipe: Path, parts: list[str]) -> None:
    plain, weights, kept = steps(tiny_recipe, parts)
    again, same, fewer = steps(tiny_recipe, [*parts, "train.gradient_checkpointing=true"])
    assert again == plain
    assert all(torch.equal(same[name], weight) for name, weight in weights.items())
    assert fewer < 0.7 * kept


def test_rows_of_a_gradient_are_cut_to_a_share_of_the_weight_s() -> None:
    weight = nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0], [30.0, 40.0]]))
    bias = nn.Parameter(torch.tensor([1.0, 0.0]))
    weight.grad = torch.tensor([[6.0, 8.0], [0.6, 0.8], [0.3, 0.4]])
    bias.grad = torch.tensor([0.0, 5.0])
    clip_adaptively([weight, bias, nn.Parameter(torch.ones(1))], 0.1)
    expected = torch.tensor([[0.3, 0.4], [0.6e-4, 0.8e-4], [0.3, 0.4]])  # 0.1 x 5; 0.1 x 0.001; as it was
    torch.testing.assert_close(weight.grad, expected)
    torch.testing.assert_close(bias.grad, torch.tensor([0.0, 0.1]))


def test_training_clips_adaptively_where_the_recipe_asks_for_it(tiny_recipe: Path) -> None:
    (_, plain), _ = steps(tiny_recipe, [])[0]
    (_, clipped), _ = steps(tiny_recipe, ["train.adaptive_clip=0.001"])[0]
    assert clipped < 0.5 * plain
