"""The training loop: one plain loop on accelerate, resumable, with validation by the task's own metrics."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object, set_seed

from nota_cli.console import progress, say
from nota_cli.data.annotation import read_annotation
from nota_cli.data.batches import TrainingBatch
from nota_cli.data.row_batches import loader
from nota_cli.errors import CheckpointError, NotaError, RecipeError, UsageError
from nota_cli.files import check_writable, write_text
from nota_cli.models.checkpoint import save_checkpoint
from nota_cli.models.families.salmonn_build import train_mode
from nota_cli.recipe.load import recipe_hash
from nota_cli.recipe.schema import Recipe
from nota_cli.recipe.training import Train
from nota_cli.training.best import Best
from nota_cli.training.guards import SkippedSteps, StopSignal, ranks_explained
from nota_cli.training.log import METRICS_FILE, Log, Pace, check_tracker, start_tracker
from nota_cli.training.state import STATE_FILE, drop_states, load_state, save_state
from nota_cli.training.trainer import Step, Trainer
from nota_cli.training.validate import validate

LOG_EVERY = 20
OF_NO_WEIGHT = (
    "gradient_checkpointing",
    "keep",
    "best",
    "save_every",
    "tracker",
    "parallel",
    "timeout_minutes",
    "validate_every",
    "workers",
    "max_skipped_steps",
)
"""Values of `train` that do not change what a run learns; a run may be resumed with others."""


@dataclass
class Trained:
    """Where the checkpoint lies, what the last validation found, and how fast this call was (`Pace.summary`)."""

    folder: Path
    steps: int
    metrics: dict[str, float]
    summary: dict[str, Any] = field(default_factory=dict)


def train(
    recipe: Recipe, folder: Path, *, resume: bool = False, restart: bool = False, stop_after: int | None = None
) -> Trained:
    """Train what the recipe trains and write the checkpoint folder.

    Args:
        recipe: the system, its data and its schedule.
        folder: where the checkpoint goes; `folder/trainer` holds the state of a run that is not finished.
        resume: go on from that state.
        restart: throw that state away.
        stop_after: end early after so many steps of this call, state saved; for tests and trials.

    Raises:
        UsageError: the folder cannot be written to, or `resume` and `restart` are both asked for.
        RecipeError: no training data, or nothing to train.
        DataError: an annotation cannot be used, or names a file that is not there.
        NotaError: a signal of a scheduler stopped the run, its state saved; too many steps were not finite; memory or
            disk do not do.
        CheckpointError: a run's state or a checkpoint is there and neither `resume` nor `restart` was asked for, or
            the state does not fit.
    """
    if resume and restart:
        raise UsageError("--resume goes on with a run and --restart throws it away: choose one")
    if not recipe.data.train:
        raise RecipeError(f"recipe {recipe.name!r} names no training data; add data.train")
    if recipe.train.best and not recipe.data.validation:
        raise RecipeError(f"train.best is {recipe.train.best}, and there is no data.validation to find it by; add one")
    trainer_folder = folder / "trainer"
    if not (resume or restart):
        if (trainer_folder / STATE_FILE).exists():
            raise CheckpointError(f"{trainer_folder} holds an unfinished run: add --resume, or --restart to drop it")
        if (folder / "recipe.yaml").exists():
            raise CheckpointError(f"{folder} holds a trained model: give another --out, or --restart to replace it")
    if resume and not (trainer_folder / STATE_FILE).exists() and (folder / "recipe.yaml").exists():
        raise CheckpointError(
            f"{folder} holds a trained model and no unfinished run: there is nothing to resume. To train on from it, "
            f"give another --out and --init {folder}; to train it anew, --restart instead of --resume."
        )
    check_tracker(recipe.train.tracker)
    check_writable(trainer_folder / STATE_FILE)
    for source in recipe.data.validation:  # better known now than hours into the run
        read_annotation(source.annotation, audio_root=source.audio_root)
    tracker = None if recipe.train.tracker == "none" else recipe.train.tracker
    # Its mixed precision is of the whole process and cannot be changed; autocast can.
    waits = InitProcessGroupKwargs(timeout=timedelta(minutes=recipe.train.timeout_minutes))
    accelerator = Accelerator(log_with=tracker, project_dir=str(trainer_folder), kwargs_handlers=[waits])
    set_seed(recipe.train.seed)
    with StopSignal() as stop, ranks_explained(recipe.train.timeout_minutes):
        run = _Run(recipe, folder, accelerator, stop)
        return run.train(resume=resume, stop_after=stop_after)


class _Run:
    """One call of `train`: what goes round the steps."""

    def __init__(self, recipe: Recipe, folder: Path, accelerator: Accelerator, stop: StopSignal) -> None:
        self.recipe, self.spec, self.folder = recipe, recipe.train, folder
        self.accelerator, self.stop = accelerator, stop
        self.main = accelerator.is_main_process
        self.trainer = Trainer(recipe, accelerator)
        self.state_folder = folder / "trainer"
        self.stamp = run_stamp(recipe)
        self.best = Best(folder / "best", self.spec)
        self.skipped = SkippedSteps(self.spec.max_skipped_steps)

    def train(self, *, resume: bool, stop_after: int | None) -> Trained:
        """As `nota_cli.training.loop.train`."""
        spec, trainer = self.spec, self.trainer
        first = self._begin(resume)
        last = spec.steps if stop_after is None else min(spec.steps, first + stop_after)
        # Step and accumulation give every batch a number of its own; see TrainingBatches.
        order = list(range(first * spec.accumulation, last * spec.accumulation))
        trainer.fill_caches(order)
        timeout = 60 * spec.timeout_minutes
        batches = cast(Iterator[TrainingBatch], loader(trainer.batches, order, spec.workers, timeout))
        track = start_tracker(self.accelerator, self.recipe, self.folder.name)
        self.log = Log(self.state_folder / METRICS_FILE, first, self.main, track)
        metrics: dict[str, float] = {}
        pace = Pace(self.accelerator.num_processes)
        train_mode(trainer.model)
        with progress(self.main) as bar:
            bar_task = bar.add_task("train", total=spec.steps, completed=first, detail="")
            for step in range(first, last):
                done = trainer.step(step, batches)
                pace.add(done)
                self._look_at(step, done, fresh=step == first)
                bar.update(bar_task, advance=1)
                if (step + 1) % LOG_EVERY == 0 or step + 1 == last:
                    detail = " ".join(f"{name} {value:.3f}" for name, value in done.losses.items())
                    bar.update(bar_task, detail=f"{detail} {pace.figures()['clips_per_second']:.0f} clips/s")
                    rates = {"learning_rate": done.learning_rate, "gradient_norm": done.gradient_norm}
                    self.log.write({"step": step + 1, **done.losses, **rates, **pace.figures()})
                stopped = trainer.any_process(self.stop.name is not None)
                if (step + 1) % spec.save_every == 0 or step + 1 == last or stopped:
                    self._save(step + 1)
                if stopped and step + 1 < last:
                    raise NotaError(
                        f"stopped by {self.stop.name or 'a signal'} after step {step + 1}; its state is saved in "
                        f"{self.state_folder}. The same command with --resume goes on."
                    )
                if (step + 1) % spec.validate_every == 0 and step + 1 < spec.steps and self.recipe.data.validation:
                    metrics = self._validate(step + 1)
        if last == spec.steps:
            metrics = self._finish(metrics)
        self.log.draw()
        summary = pace.summary()
        if self.main:
            write_text(self.state_folder / "summary.json", json.dumps({"first": first, **summary}, indent=2) + "\n")
        self.accelerator.wait_for_everyone()
        for tracker in self.accelerator.trackers:  # `end_training` ends the group of processes too: later stages' also
            tracker.finish()
        return Trained(self.folder, last, metrics, summary)

    def _begin(self, resume: bool) -> int:
        """Load the state, or begin anew; returns how many steps are done."""
        trainer, spec, first = self.trainer, self.spec, 0
        if resume:
            first, self.skipped.count = load_state(
                self.state_folder, self.stamp, trainer.parameters, trainer.optimizer, trainer.average
            )
            self._report(f"resumed after step {first}")
        elif self.main:
            drop_states(self.state_folder)
            self.best.drop()
        if self.recipe.checkpoint is not None and spec.init is None and not resume:
            self._report(
                f"the recipe's checkpoint {self.recipe.checkpoint} is not trained on from; for that, add --init with it"
            )
        count = sum(parameter.numel() for _, parameter in trainer.parameters)
        several = self.accelerator.num_processes
        among = f", {several} processes" if several > 1 else ""
        among += " with parts of each layer" if trainer.sharded else ""
        self._report(f"training {count:,} parameters for {spec.steps} steps on {self.accelerator.device}{among}")
        return first

    def _look_at(self, step: int, done: Step, *, fresh: bool) -> None:
        """Count a step that changed nothing; of a run's first one say what it was like, so that a dead run is seen."""
        if not done.finite:
            files = gather_object(done.bad_files) if self.accelerator.num_processes > 1 else done.bad_files
            self.skipped.add(step + 1, files)
        if fresh:
            losses = ", ".join(f"{name} {value:.2f}" for name, value in done.losses.items())
            guess = math.log(len(self.trainer.model.decoder.tokenizer))
            self._report(
                f"step {step + 1}: {losses} (a guess among all tokens costs {guess:.2f}), learning rate "
                f"{done.learning_rate:.2g}, gradient norm {done.gradient_norm:.3g} (clipped at {self.spec.clip_norm:g})"
            )

    def _save(self, step: int) -> None:
        trainer = self.trainer
        if self.main or trainer.sharded:
            save_state(
                self.state_folder,
                step,
                self.stamp,
                trainer.parameters,
                trainer.optimizer,
                trainer.average,
                skipped=self.skipped.count,
                keep=self.spec.keep,
                main=self.main,
            )

    def _validate(self, step: int) -> dict[str, float]:
        trainer = self.trainer
        with trainer.averaged():
            figures = validate(trainer.model)
            if self.spec.best:
                with trainer.saveable():
                    if self.main:
                        self.best.offer(trainer.model, step, figures)
        train_mode(trainer.model)
        self.log.write({"step": step, **figures})
        self.log.draw()
        self._report(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
        return figures

    def _finish(self, metrics: dict[str, float]) -> dict[str, float]:
        """Validate once more and write the checkpoint. A run that was cut here has no step left to do."""
        steps = self.spec.steps
        if self.recipe.data.validation:
            metrics = self._validate(steps)
        with self.trainer.averaged(), self.trainer.saveable():
            if self.main:
                save_checkpoint(self.trainer.model, self.folder, getattr(torch, self.spec.save_dtype))
        if self.main:
            write_text(self.folder / "metrics.json", json.dumps({"steps": steps, **metrics}, indent=2) + "\n")
            drop_states(self.state_folder)
        return metrics

    def _report(self, message: str) -> None:
        if self.main:
            say(message)


def run_stamp(recipe: Recipe) -> str:
    """The recipe's hash without what does not change what a run learns."""
    data = recipe.data.model_copy(update={"validation": []})
    same = {name: Train.model_fields[name].default for name in OF_NO_WEIGHT}
    return recipe_hash(recipe.model_copy(update={"data": data, "train": recipe.train.model_copy(update=same)}))
