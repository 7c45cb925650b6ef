"""The training loop: one plain loop on accelerate, resumable, with validation by the task's own metrics."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from nota_cli.console import progress, say
from nota_cli.data.annotation import read_annotation
from nota_cli.data.batches import TrainingBatches
from nota_cli.data.row_batches import Batch, loader
from nota_cli.errors import CheckpointError, NotaError, RecipeError, UsageError
from nota_cli.files import check_writable, write_text
from nota_cli.models.build import build
from nota_cli.models.checkpoint import load_checkpoint, save_checkpoint
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.models.families.salmonn_build import train_mode
from nota_cli.recipe.load import own_decoder, recipe_hash
from nota_cli.recipe.schema import Recipe
from nota_cli.training.auxiliary import AuxiliaryHeads
from nota_cli.training.optim import learning_rate, make_optimizer
from nota_cli.training.state import STATE_FILE, load_state, save_state
from nota_cli.training.validate import validate

LOG_EVERY = 20


@dataclass
class Trained:
    """Where the checkpoint lies and what the last validation found."""

    folder: Path
    steps: int
    metrics: dict[str, float]


class _Trainer:
    """Model, helper heads, optimizer and averaged weights of one run."""

    def __init__(self, recipe: Recipe, accelerator: Accelerator) -> None:
        self.recipe, self.spec, self.accelerator = recipe, recipe.train, accelerator
        recipe = recipe.model_copy(update={"checkpoint": None})
        if self.spec.init is not None:
            decoder = own_decoder(recipe.decoder, Path(self.spec.init))
            recipe = recipe.model_copy(update={"decoder": decoder})
        self.model = build(recipe, str(accelerator.device), "train")
        if self.spec.init is not None:
            _start_from(self.model, Path(self.spec.init))
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise RecipeError(f"recipe {recipe.name!r} trains nothing; set `train: true` on a part, or add `lora`")
        self.autocast = self.spec.autocast and not (accelerator.device.type == "cpu" and _has_half(recipe))
        share, rest = divmod(self.spec.batch_size, accelerator.num_processes)
        if rest:
            raise RecipeError(f"train.batch_size {self.spec.batch_size} does not split over the processes evenly")
        ramp = self.spec.augment_ramp * self.spec.accumulation * accelerator.num_processes
        self.batches = TrainingBatches(
            recipe.data.train, self.model.preprocessor(), self.spec.augment, share, self.spec.seed, ramp
        )
        self.heads = AuxiliaryHeads(self.model, self.spec, self.batches.label_names).to(accelerator.device)
        named = [*self.model.named_parameters(), *((f"heads.{k}", p) for k, p in self.heads.named_parameters())]
        self.parameters: list[tuple[str, nn.Parameter]] = [(k, p) for k, p in named if p.requires_grad]
        self.optimizer = make_optimizer(self.parameters, self.spec)
        self.average = {k: p.detach().clone() for k, p in self.parameters} if self.spec.average else {}

    def step(self, step: int, source: Iterator[Batch]) -> dict[str, float]:
        """One optimizer step over `accumulation` batches; returns the mean losses."""
        # What dropout draws depends on seed, step and process alone, so a resumed run draws the same.
        numbers = [self.spec.seed, step, self.accelerator.process_index]
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.spec)
        sums: dict[str, float] = {}
        for _ in range(self.spec.accumulation):
            batch = next(source)
            with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.autocast):
                losses = self._losses(batch)
            total = torch.stack(list(losses.values())).sum() / self.spec.accumulation
            self.accelerator.backward(total)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / self.spec.accumulation
        if self.accelerator.num_processes > 1:
            self._average_gradients()
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in self.parameters], self.spec.clip_norm)
        if not torch.isfinite(norm):
            raise NotaError(f"the gradient is not finite at step {step + 1}; lower train.learning_rate and --restart")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            # Early on the average follows closely, so that random starting weights are soon forgotten.
            decay = min(self.spec.average, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.average.values()), [p.detach() for _, p in self.parameters], 1 - decay)
        return sums

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted losses of a batch by name."""
        if self.spec.decoder_weight == 0:
            return self.heads(self.model.encode(batch.features), batch)
        loss, encoded = self.model(batch.features, batch.queries, batch.texts)
        return {"loss": self.spec.decoder_weight * loss, **self.heads(encoded, batch)}

    def _average_gradients(self) -> None:
        """Mean over the processes, in one message; a process whose batch left a part unused counts as zero there."""
        for _, parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for _, parameter in self.parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        mean = self.accelerator.reduce(flat, reduction="mean")
        pieces = mean.split([parameter.numel() for _, parameter in self.parameters])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model holds the averaged weights (if the recipe keeps them)."""
        kept = {name: parameter.detach().clone() for name, parameter in self.parameters} if self.average else {}
        self._copy_in(self.average)
        try:
            yield
        finally:
            self._copy_in(kept)

    @torch.no_grad()
    def _copy_in(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters:
            if name in weights:
                parameter.copy_(weights[name])


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
        CheckpointError: a run's state or a checkpoint is there and neither `resume` nor `restart` was asked for, or
            the state does not fit.
    """
    if resume and restart:
        raise UsageError("--resume goes on with a run and --restart throws it away: choose one")
    if not recipe.data.train:
        raise RecipeError(f"recipe {recipe.name!r} names no training data; add data.train")
    trainer_folder = folder / "trainer"
    if not (resume or restart):
        if (trainer_folder / STATE_FILE).exists():
            raise CheckpointError(f"{trainer_folder} holds an unfinished run: add --resume, or --restart to drop it")
        if (folder / "recipe.yaml").exists():
            raise CheckpointError(f"{folder} holds a trained model: give another --out, or --restart to replace it")
    check_writable(trainer_folder / STATE_FILE)
    for source in recipe.data.validation:  # better known now than hours into the run
        read_annotation(source.annotation, audio_root=source.audio_root)
    spec = recipe.train
    accelerator = Accelerator()  # its mixed precision is of the whole process and cannot be changed; autocast can
    set_seed(spec.seed)
    trainer = _Trainer(recipe, accelerator)
    # What a run is validated on does not change what it learns.
    stamp = recipe_hash(recipe.model_copy(update={"data": recipe.data.model_copy(update={"validation": []})}))
    report = say if accelerator.is_main_process else lambda message: None
    first = 0
    if resume:
        first = load_state(trainer_folder, stamp, trainer.parameters, trainer.optimizer, trainer.average)
        report(f"resumed after step {first}")
    elif accelerator.is_main_process:
        (trainer_folder / STATE_FILE).unlink(missing_ok=True)
    if recipe.checkpoint is not None and spec.init is None and not resume:
        report(f"the recipe's checkpoint {recipe.checkpoint} is not trained on from; for that, add --init with it")
    count = sum(parameter.numel() for _, parameter in trainer.parameters)
    report(f"training {count:,} parameters for {spec.steps} steps on {accelerator.device}")
    log = _Log(trainer_folder / "log.jsonl", first, accelerator.is_main_process)
    last = spec.steps if stop_after is None else min(spec.steps, first + stop_after)
    # Step, accumulation and process give every batch a number of its own; see TrainingBatches.
    per_step = spec.accumulation * accelerator.num_processes
    order = [
        step * per_step + part * accelerator.num_processes + accelerator.process_index
        for step in range(first, last)
        for part in range(spec.accumulation)
    ]
    batches = loader(trainer.batches, order, spec.workers)
    metrics: dict[str, float] = {}
    train_mode(trainer.model)

    def look(step: int) -> dict[str, float]:
        with trainer.averaged():
            found = validate(trainer.model)
        train_mode(trainer.model)
        log.write({"step": step, **found})
        report(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
        return found

    with progress(accelerator.is_main_process) as bar:
        shown = bar.add_task("train", total=spec.steps, completed=first, detail="")
        started, clips = time.monotonic(), 0
        for step in range(first, last):
            losses = trainer.step(step, batches)
            clips += spec.batch_size * spec.accumulation
            bar.update(shown, advance=1)
            if (step + 1) % LOG_EVERY == 0 or step + 1 == last:
                rate = clips / (time.monotonic() - started)
                detail = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
                bar.update(shown, detail=f"{detail} {rate:.0f} clips/s")
                log.write({"step": step + 1, **losses, "clips_per_second": round(rate, 1)})
            if ((step + 1) % spec.save_every == 0 or step + 1 == last) and accelerator.is_main_process:
                save_state(trainer_folder, step + 1, stamp, trainer.parameters, trainer.optimizer, trainer.average)
            if (step + 1) % spec.validate_every == 0 and step + 1 < spec.steps and recipe.data.validation:
                metrics = look(step + 1)
    if last == spec.steps and recipe.data.validation:
        metrics = look(last)  # outside the loop: a run that was cut here has no step left to do
    if last == spec.steps and accelerator.is_main_process:
        with trainer.averaged():
            save_checkpoint(trainer.model, folder, getattr(torch, spec.save_dtype))
        write_text(folder / "metrics.json", json.dumps({"steps": last, **metrics}, indent=2) + "\n")
        (trainer_folder / STATE_FILE).unlink()
    accelerator.wait_for_everyone()
    return Trained(folder, last, metrics)


def _has_half(recipe: Recipe) -> bool:
    """Whether a part has float16 weights, which torch's bfloat16 autocast does not take on a CPU."""
    return "float16" in (recipe.speech_encoder.dtype, recipe.audio_encoder.dtype, recipe.decoder.dtype)


def _start_from(model: Salmonn, folder: Path) -> None:
    """Weights of an earlier stage; the adapters of this stage, if that one had none, start fresh."""
    recipe = model.recipe
    fresh = recipe.lora is not None and folder.is_dir() and not (folder / "adapter").is_dir()
    if not fresh:
        load_checkpoint(model, folder)
        return
    model.recipe = recipe.model_copy(update={"lora": None})
    load_checkpoint(model, folder)
    model.recipe = recipe


class _Log:
    """One JSON line an entry, appended by the main process; entries of a cut run after step `first` are dropped."""

    def __init__(self, path: Path, first: int, active: bool) -> None:
        self.path, self.active = path, active
        if active:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if first and path.exists() else []
            whole = [line for line in lines if line.endswith("\n")]  # a kill may have cut the last one
            write_text(path, "".join(line for line in whole if json.loads(line)["step"] <= first))

    def write(self, entry: dict[str, float]) -> None:
        if self.active:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
