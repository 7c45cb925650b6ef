"""The checkpoint of a run that is best by a figure of its validation."""

import json
import shutil
from pathlib import Path

import torch

from nota_cli.console import say
from nota_cli.errors import RecipeError
from nota_cli.files import atomic_folder, write_text
from nota_cli.models.checkpoint import save_checkpoint
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.recipe.training import Train

HIGHER = frozenset({"cider_d", "right_captions"})
"""Figures of which more is better; of the others, less is."""


class Best:
    """Keeps it in a folder, with its figures in `metrics.json`.

    Args:
        folder: where.
        spec: its `best` names the figure; without one nothing is kept.
    """

    def __init__(self, folder: Path, spec: Train) -> None:
        self.folder, self.spec = folder, spec

    def drop(self) -> None:
        """Remove what an earlier run left."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def offer(self, model: Salmonn, step: int, metrics: dict[str, float]) -> None:
        """Keep the model as it is if it is better than what is there.

        Raises:
            RecipeError: the validation has no such figure.
            NotaError: there is no room; the one before stays.
        """
        name = self.spec.best
        if not name:
            return
        if name not in metrics:
            raise RecipeError(
                f"train.best is {name}, and the validation gives {', '.join(metrics)}: choose one of these, or add "
                "rows of its task to data.validation"
            )
        file = self.folder / "metrics.json"
        if file.is_file():
            before = json.loads(file.read_text(encoding="utf-8"))[name]
            if not (metrics[name] > before if name in HIGHER else metrics[name] < before):
                return
        with atomic_folder(self.folder) as part:  # the one before stays until this one is whole
            save_checkpoint(model, part, getattr(torch, self.spec.save_dtype))
            write_text(part / file.name, json.dumps({"steps": step, **metrics}, indent=2) + "\n")
        say(f"step {step} is the best so far by {name}: {metrics[name]:.4g}")
