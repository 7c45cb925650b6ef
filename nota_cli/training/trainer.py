"""Model, helper heads, optimizer and averaged weights of one training run, and one step of it."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nota_cli.data.batches import TrainingBatch, TrainingBatches
from nota_cli.errors import RecipeError
from nota_cli.models.build import build
from nota_cli.models.checkpoint import WEIGHTS, has_summary, load_checkpoint
from nota_cli.models.compute import multiplies
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.recipe.load import own_decoder
from nota_cli.recipe.schema import Recipe
from nota_cli.recipe.section import LoadFormat
from nota_cli.training.auxiliary import AuxiliaryHeads
from nota_cli.training.distillation import Teacher, TeacherCache, check_distillable
from nota_cli.training.encoder_cache import EncoderCache, check_cacheable
from nota_cli.training.guards import batch_explained
from nota_cli.training.optim import clip_adaptively, learning_rate, make_optimizer
from nota_cli.training.recompute import recompute_layers
from nota_cli.training.sharding import clip_norm, gathered, is_sharded, own_part, shard_layers, shards_layers


@dataclass
class Step:
    """What one optimizer step did.

    Attributes:
        losses: the weighted mean losses by name, over all processes.
        learning_rate: of this step.
        gradient_norm: before it is cut to `train.clip_norm`.
        finite: whether losses and gradient are numbers; if not, no weight was changed.
        bad_files: those of this process's batches whose loss is none, or all if only the gradient is none.
        wait: seconds that the step waited for its data.
        clips: how many this process saw.
        audio_seconds: how long they are, padding left out.
    """

    losses: dict[str, float] = field(default_factory=dict)
    learning_rate: float = 0.0
    gradient_norm: float = 0.0
    finite: bool = True
    bad_files: list[str] = field(default_factory=list)
    wait: float = 0.0
    clips: int = 0
    audio_seconds: float = 0.0


class Trainer:
    """Everything that a run changes."""

    def __init__(self, recipe: Recipe, accelerator: Accelerator, load_format: LoadFormat = "auto") -> None:
        self.recipe, self.spec, self.accelerator = recipe, recipe.train, accelerator
        check_distillable(recipe)
        if self.spec.cache is not None:
            check_cacheable(recipe)
        recipe = recipe.model_copy(update={"checkpoint": None})
        if self.spec.init is not None:
            decoder = own_decoder(recipe.decoder, Path(self.spec.init))
            recipe = recipe.model_copy(update={"decoder": decoder})
        self.model = build(recipe, str(accelerator.device), "train", load_format=load_format)
        if self.spec.init is not None:
            _start_from(self.model, Path(self.spec.init))
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise RecipeError(f"recipe {recipe.name!r} trains nothing; set `train: true` on a part, or add `lora`")
        if self.spec.gradient_checkpointing:
            recompute_layers(self.model)
        self.sharded = shards_layers(accelerator, self.spec)
        if self.sharded:
            shard_layers(self.model, accelerator)
        self.teacher: Teacher | None = None
        if self.spec.distill is not None:
            self.teacher = Teacher(self.spec.distill, self.model, str(accelerator.device), load_format)
        on_cpu = accelerator.device.type == "cpu"
        self.autocast = self.spec.autocast and not (on_cpu and (_has_half(recipe) or not multiplies(torch.bfloat16)))
        self.batches = TrainingBatches(
            recipe.data.train,
            self.model.preprocessor(torch.device("cpu")),
            self.spec.augment,
            self.spec.batch_size,
            self.spec.seed,
            self.spec.augment_ramp * self.spec.accumulation,
            buckets=self.spec.buckets,
            batch_seconds=self.spec.batch_seconds,
            share=(accelerator.process_index, accelerator.num_processes),
            teacher=None if self.teacher is None else self.teacher.model.preprocessor(torch.device("cpu")),
        )
        self.heads = AuxiliaryHeads(self.model, self.spec, self.batches.label_names).to(accelerator.device)
        named = [*self.model.named_parameters(), *((f"heads.{k}", p) for k, p in self.heads.named_parameters())]
        self.parameters: list[tuple[str, nn.Parameter]] = [(k, p) for k, p in named if p.requires_grad]
        self.optimizer = make_optimizer(self.parameters, self.spec)
        self.average = {k: p.detach().clone() for k, p in self.parameters} if self.spec.average else {}

    def fill_caches(self, order: list[int]) -> None:
        """Have on disk what the recipe keeps of the clips of these batches, and train on that.

        With `train.cache` the encoders' states, with `train.distill.cache` the teacher's answers.
        """
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        if self.spec.cache is not None:
            cache = EncoderCache(Path(self.spec.cache), self.model, self.batches.corpora, self.autocast)
            cache.fill(self.batches, order, process=process, processes=processes)
            self.accelerator.wait_for_everyone()
            cache.shards.scan()
            self.batches.states = cache
        if self.teacher is not None and self.spec.distill is not None and self.spec.distill.cache is not None:
            answers = TeacherCache(Path(self.spec.distill.cache), self.teacher, self.batches)
            answers.fill(order, process=process, processes=processes)
            self.accelerator.wait_for_everyone()
            answers.shards.scan()
            self.batches.soft_targets, self.batches.teacher = answers, None

    def step(self, step: int, source: Iterator[TrainingBatch]) -> Step:
        """One optimizer step over `accumulation` batches; nothing is changed where a loss or gradient is not finite."""
        # What dropout draws depends on seed, step and process alone, so a resumed run draws the same.
        numbers = [self.spec.seed, step, self.accelerator.process_index]
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
        done = Step(learning_rate=learning_rate(step, self.spec))
        for group in self.optimizer.param_groups:
            group["lr"] = done.learning_rate
        names: list[str] = []
        for _ in range(self.spec.accumulation):
            before = time.monotonic()
            batch = next(source)
            done.wait += time.monotonic() - before
            names += batch.names
            with batch_explained(batch, self.spec):
                losses, finite = self._backward(batch)
            if not finite:
                done.bad_files += batch.names
            for name, value in losses.items():
                done.losses[name] = done.losses.get(name, 0.0) + value
            if not batch.spare:
                done.clips += len(batch.queries)
                done.audio_seconds += batch.audio_seconds
        if self.accelerator.num_processes > 1:
            self._sum_gradients()
        if self.spec.adaptive_clip:
            clip_adaptively((parameter for _, parameter in self.parameters), self.spec.adaptive_clip)
        parameters = [parameter for _, parameter in self.parameters]
        clip = clip_norm if self.sharded else torch.nn.utils.clip_grad_norm_
        done.gradient_norm = float(clip(parameters, self.spec.clip_norm))
        done.finite = math.isfinite(done.gradient_norm) and all(np.isfinite(value) for value in done.losses.values())
        if done.finite:
            self.optimizer.step()
            self._follow(step)
        elif not done.bad_files:
            done.bad_files = names
        self.optimizer.zero_grad(set_to_none=True)
        return done

    def _backward(self, batch: TrainingBatch) -> tuple[dict[str, float], bool]:
        """Add a batch's gradients; returns its losses, as means over all processes' shares, and if its own are finite.

        Each process's mean counts by how many tokens, or rows, it is the mean of, so that it makes no difference how
        many processes share a batch.
        """
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.autocast):
            losses = self._losses(batch)
        names = ["loss", "ctc", "alignment", "label", "distillation", "states"]
        counts = self._counts(batch)
        own = torch.tensor([float(counts.get(name, 0)) for name in names], dtype=torch.float64)
        whole = self._summed(own)
        shares = dict(zip(names, (own / whole.clamp(min=1)).tolist(), strict=True))
        weighted = {name: value * (shares[name] / self.spec.accumulation) for name, value in losses.items()}
        self.accelerator.backward(torch.stack(list(weighted.values())).sum())
        values = [float(weighted[name].detach()) if name in weighted else 0.0 for name in names]
        summed = self._summed(torch.tensor(values, dtype=torch.float64)).tolist()
        means = {name: summed[at] for at, name in enumerate(names) if whole[at] > 0}
        return means, all(np.isfinite(value) for value in values)

    def _summed(self, numbers: Tensor) -> Tensor:
        """Over the processes."""
        if self.accelerator.num_processes == 1:
            return numbers
        summed: Tensor = self.accelerator.reduce(numbers.to(self.accelerator.device), reduction="sum")
        return summed.cpu()

    def any_process(self, flag: bool) -> bool:
        """Whether it is true in any of the processes."""
        return float(self._summed(torch.tensor([float(flag)]))) > 0

    def _losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """The weighted losses of a batch by name."""
        if self.spec.decoder_weight == 0:
            return dict(self.heads(self.model.encode(batch.features), batch))
        if self.teacher is None or self.spec.distill is None:
            loss, encoded = self.model(batch.features, batch.queries, batch.texts)
            return {"loss": self.spec.decoder_weight * loss, **self.heads(encoded, batch)}
        loss, logits, encoded = self.model.answer_logits(batch.features, batch.queries, batch.texts)
        spec = self.spec.distill
        targets, heard = self.teacher(batch)
        losses = {
            "loss": self.spec.decoder_weight * (1 - spec.weight) * loss,
            "distillation": self.spec.decoder_weight * spec.weight * self.teacher.divergence(logits, targets),
        }
        if spec.states_weight and heard is not None:
            losses["states"] = spec.states_weight * self.teacher.states_difference(encoded, heard)
        return {**losses, **self.heads(encoded, batch)}

    def _counts(self, batch: TrainingBatch) -> dict[str, int]:
        """Of how many tokens or rows each loss is the mean; nothing of a spare batch."""
        if batch.spare:
            return {}
        counts = self.heads.counts(batch)
        if self.spec.decoder_weight:
            counts["loss"] = sum(self.model.answer_lengths(batch.texts))
            if self.teacher is not None:
                counts["distillation"] = counts["loss"]
            if self.spec.distill is not None and self.spec.distill.states_weight:
                counts["states"] = len(batch.queries)
        return counts

    def _sum_gradients(self) -> None:
        """Over the processes, in one message; a process whose batch left a part unused counts as zero there.

        Those of sharded layers are summed as the backward pass goes.
        """
        parameters = [parameter for _, parameter in self.parameters if not is_sharded(parameter)]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        summed = self.accelerator.reduce(flat, reduction="sum")
        pieces = summed.split([parameter.numel() for parameter in parameters])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))

    def _follow(self, step: int) -> None:
        """Move the averaged weights towards the weights."""
        if self.average:
            # Early on the average follows closely, so that random starting weights are soon forgotten.
            decay = min(self.spec.average, (1 + step) / (10 + step))
            average = [own_part(tensor) for tensor in self.average.values()]
            torch._foreach_lerp_(average, [own_part(p.detach()) for _, p in self.parameters], 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model holds the averaged weights (if the recipe keeps them)."""
        kept = {name: parameter.detach().clone() for name, parameter in self.parameters} if self.average else {}
        self._copy_in(self.average)
        try:
            yield
        finally:
            self._copy_in(kept)

    @contextmanager
    def saveable(self) -> Iterator[None]:
        """Inside, the main process can save the model; where layers are sharded, all processes enter together."""
        if not self.sharded:
            yield
            return
        with gathered(self.model, self.accelerator.is_main_process):
            yield

    @torch.no_grad()
    def _copy_in(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters:
            if name in weights:
                own_part(parameter).copy_(own_part(weights[name]))


def _has_half(recipe: Recipe) -> bool:
    """Whether a part has float16 weights, which torch's bfloat16 autocast does not take on a CPU."""
    return "float16" in (recipe.speech_encoder.dtype, recipe.audio_encoder.dtype, recipe.decoder.dtype)


def _start_from(model: Salmonn, path: Path) -> None:
    """Weights of an earlier stage; what this stage has and that one had not, adapters or a summary, starts fresh."""
    recipe, summary = model.recipe, model.connector.summary
    if recipe.lora is not None and path.is_dir() and not (path / "adapter").is_dir():
        model.recipe = recipe.model_copy(update={"lora": None})
    if summary is not None and (path / WEIGHTS).is_file() and not has_summary(path):
        model.connector.summary = None
    try:
        load_checkpoint(model, path)
    finally:
        model.recipe, model.connector.summary = recipe, summary
