"""What a model is built for."""

from typing import Literal

Purpose = Literal["run", "train", "convert", "inspect"]
"""`run`: to answer; adapters are merged where that is exact, weights packed for the device, nothing can be trained or
saved. `train`: gradients are on for what the recipe trains. `convert`: frozen, nothing packed, for weights that are
still loaded into it, or saved. `inspect`: frozen and packed as it runs, every adapter and weight under its own name."""
