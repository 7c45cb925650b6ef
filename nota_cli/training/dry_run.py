"""What a training run will need, seen before it: two steps at full size with random weights, and nothing written."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from nota_cli.data.batches import TrainingBatch
from nota_cli.data.row_batches import loader
from nota_cli.errors import RecipeError
from nota_cli.features.constants import SAMPLE_RATE
from nota_cli.models.checkpoint import WEIGHTS, makes_decoder, own_state
from nota_cli.models.families.salmonn_build import train_mode
from nota_cli.paths import shard_files
from nota_cli.prompts import Query
from nota_cli.recipe.schema import Recipe
from nota_cli.recipe.training import Data
from nota_cli.training.trainer import Trainer

NOISE_SECONDS = 10.0
"""Length of the clips that stand in for data that is not there."""
WORDS = "one two three four five six seven eight nine zero"
"""What is said in them, twice."""
STEPS = 2


class PeakMeter(Protocol):
    """Bytes in use and their peak since `restart`, None where the system does not tell."""

    what: str

    def now(self) -> int | None:
        """Bytes in use."""

    def restart(self) -> None:
        """Forget the peak."""

    def peak(self) -> int | None:
        """Most bytes in use since `restart`."""


@dataclass(frozen=True)
class DryRun:
    """What two steps of a recipe needed.

    Attributes:
        memory: bytes by what they are for: each part's parameters, gradients, optimizer and what else lasts.
        before: bytes in use before the model was built, None where the system does not tell.
        peak: most bytes in use during the steps.
        meter: what `before` and `peak` are bytes of.
        seconds: that each step took.
        steps: of the whole run.
        disk: bytes by what they are for.
        clips: how many a step has, in all processes.
        noise: whether noise stood in for the recipe's data.
        finite: whether losses and gradients were numbers; if not, the optimizer did nothing.
    """

    memory: dict[str, int]
    before: int | None
    peak: int | None
    meter: str
    seconds: tuple[float, ...]
    steps: int
    disk: dict[str, int]
    clips: int
    noise: bool
    finite: bool

    @property
    def hours(self) -> float:
        """Of all steps, each as long as the last one here."""
        return self.steps * self.seconds[-1] / 3600


def dry_run(recipe: Recipe, meter_of: Callable[[str], PeakMeter]) -> DryRun:
    """Build everything with random weights, run two steps, and measure.

    Args:
        recipe: its own data are used where all of them are there, else noise of 10 s a clip.
        meter_of: the meter of a device, by name.

    Raises:
        RecipeError: nothing is trained.
        NotaError: memory does not do; the message says for what.
    """
    changes: dict[str, Any] = {"init": None, "cache": None, "tracker": "none"}
    if recipe.train.distill is not None:
        changes["distill"] = recipe.train.distill.model_copy(update={"cache": None})
    noise = not recipe.data.train or not all(
        Path(path).exists()
        for source in recipe.data.train
        for path in (*shard_files(source.annotation), source.audio_root)
    )
    if noise:
        recipe = recipe.model_copy(update={"data": Data()})
        changes["label_weight"] = 0.0
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=changes), "checkpoint": None})
    accelerator = Accelerator()
    set_seed(recipe.train.seed)
    meter = meter_of(str(accelerator.device))
    before = meter.now()
    meter.restart()
    trainer = Trainer(recipe, accelerator, "dummy")
    train_mode(trainer.model)
    order = list(range(STEPS * recipe.train.accumulation))
    batches = _noise(trainer) if noise else cast(Iterator[TrainingBatch], loader(trainer.batches, order, 0))
    seconds, clips, finite = [], 0, True
    for step in range(STEPS):
        start = time.monotonic()
        done = trainer.step(step, batches)
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize(accelerator.device)
        seconds.append(time.monotonic() - start)
        clips, finite = done.clips * accelerator.num_processes, finite and done.finite
    peak = meter.peak()
    disk = _disk(trainer)
    return DryRun(
        _memory(trainer), before, peak, meter.what, tuple(seconds), recipe.train.steps, disk, clips, noise, finite
    )


def _memory(trainer: Trainer) -> dict[str, int]:
    """Bytes that last from step to step, and the gradients."""
    trained = sum(parameter.nbytes for _, parameter in trainer.parameters)
    moments = [value for state in trainer.optimizer.state.values() for value in state.values()]
    memory = {f"parameters: {part.name.replace('_', ' ')}": part.bytes for part in trainer.model.parts()}
    memory["parameters: helper heads"] = sum(parameter.nbytes for parameter in trainer.heads.parameters())
    if trainer.teacher is not None:
        memory["parameters: teacher"] = sum(part.bytes for part in trainer.teacher.model.parts())
    memory["gradients"] = trained
    memory["optimizer"] = sum(value.nbytes for value in moments) if moments else 2 * trained
    memory["averaged weights"] = sum(tensor.nbytes for tensor in trainer.average.values())
    return {name: size for name, size in memory.items() if size}


def _disk(trainer: Trainer) -> dict[str, int]:
    """Bytes of the checkpoint, of the state of an unfinished run, and of the best checkpoint."""
    recipe, spec = trainer.model.recipe, trainer.spec
    width = getattr(torch, spec.save_dtype).itemsize
    saved = [tensor for name, tensor in trainer.model.state_dict().items() if "lora_" in name]
    saved += own_state(trainer.model).values()
    checkpoint = sum(t.numel() * (width if t.dtype == torch.float32 else t.element_size()) for t in saved)
    path = recipe.decoder.path
    if makes_decoder(recipe) or (path is not None and (Path(path).parent / WEIGHTS).is_file()):
        checkpoint += next(part.bytes for part in trainer.model.parts() if part.name == "decoder")
    trained = sum(parameter.nbytes for _, parameter in trainer.parameters)
    state = trained * (3 if not trainer.average else 4)
    disk = {"checkpoint": checkpoint, "state while training": state * (spec.keep + 1)}
    if spec.best:
        disk["best checkpoint"] = checkpoint
    return disk


def _noise(trainer: Trainer) -> Iterator[TrainingBatch]:
    """Batches of noise, as many clips as the recipe's."""
    recipe, spec = trainer.recipe, trainer.spec
    tasks = [task for task, prompt in recipe.prompts.tasks.items() if "{}" not in prompt]
    if not tasks:
        raise RecipeError("every prompt of the recipe asks for a question; a dry run needs one without, or its data")
    seconds = min(NOISE_SECONDS, recipe.audio.max_seconds)
    clips = spec.batch_size if spec.batch_seconds is None else max(1, int(spec.batch_seconds / seconds))
    clips = -(-clips // trainer.accelerator.num_processes)
    student = trainer.model.preprocessor(torch.device("cpu"))
    teacher = None if trainer.teacher is None else trainer.teacher.model.preprocessor(torch.device("cpu"))
    rng = np.random.default_rng(spec.seed)
    while True:
        waves = [0.1 * rng.standard_normal(int(seconds * SAMPLE_RATE), dtype=np.float32) for _ in range(clips)]
        yield TrainingBatch(
            student.features(waves),
            [Query("asr" if "asr" in tasks else tasks[0])] * clips,
            [f"{WORDS} {WORDS}"] * clips,
            [None] * clips,
            [],
            names=("noise",) * clips,
            seconds=(seconds,) * clips,
            teacher_features=None if teacher in (None, student) else teacher.features(waves),
        )
