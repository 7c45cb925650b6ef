"""Public audio language models as transformers has them: its classes, processors and `generate`; no remote code."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from nota_cli.errors import RecipeError
from nota_cli.generation.answer import Answer
from nota_cli.generation.drawn_tokens import DrawnTokens
from nota_cli.generation.draws import Sampling, row_seeds
from nota_cli.generation.loop_guard import guarded
from nota_cli.models.families.public_inputs import processor_inputs
from nota_cli.models.families.public_load import load_model, load_processor
from nota_cli.models.families.public_runtime import ENCODERS, PublicRuntime
from nota_cli.models.inventory import count_parts
from nota_cli.models.parts import Part
from nota_cli.models.purpose import Purpose
from nota_cli.prompts import Query, wrap
from nota_cli.recipe.public import PublicRecipe
from nota_cli.recipe.schema import Generate
from nota_cli.recipe.section import LoadFormat


@dataclass(frozen=True)
class Waveforms:
    """Clips at 16 kHz, float32 `[samples]` each; the model's own processor makes its features of them."""

    waves: list[np.ndarray[Any, Any]]

    def part(self, chosen: slice) -> "Waveforms":
        """Some of the clips."""
        return Waveforms(self.waves[chosen])

    def rows(self, chosen: list[int]) -> "Waveforms":
        """Some of the clips, by number."""
        return Waveforms([self.waves[row] for row in chosen])


@dataclass(frozen=True)
class TakeWaveforms:
    """Leaves features to the processor (`nota_cli.models.families.base.Preprocessor`)."""

    max_seconds: float
    device: None = None

    def features(self, waves: list[np.ndarray[Any, Any]]) -> Waveforms:
        """The clips as they are."""
        return Waveforms(waves)


class PublicModel:
    """A model of transformers that hears (`nota_cli.models.families.base.AudioModel`).

    Args:
        recipe: its prompts and settings.
        model: the transformers model, in evaluation mode.
        processor: its processor; None for one on the meta device, which answers nothing.
    """

    def __init__(self, recipe: PublicRecipe, model: Any, processor: Any) -> None:
        self.recipe, self.model, self.processor = recipe, model, processor

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        device: torch.device = self.model.device
        return device

    @property
    def kernel(self) -> str:
        """What multiplies its weights."""
        return {"nf4": "bitsandbytes"}.get(self.recipe.model.quantization, "none")

    def preprocessor(self, device: Any = None) -> TakeWaveforms:
        """Clips go to the processor as they are."""
        return TakeWaveforms(self.recipe.audio.max_seconds)

    def encode(self, features: Waveforms) -> Waveforms:
        """The clips: what is encoded depends on what is asked."""
        return features

    encode_batch = encode

    def settings_for(self, task: str) -> Generate:
        """How the recipe has answers to one task found."""
        return self.recipe.generate.for_task(task)

    def parts(self) -> list[Part]:
        """The audio encoder and what is behind it."""
        encoder = find_encoder(self.model)
        if encoder is None:
            return count_parts({"decoder": self.model})
        rest = nn.Module()  # a view of the same modules without the encoder
        for name, child in _without(self.model, encoder):
            rest.add_module(name.replace(".", "_"), child)
        adapted = any("lora_" in name for name, _ in rest.named_parameters())
        return count_parts({"speech_encoder": encoder, "decoder": rest}, adapted=adapted)

    def free_caches(self) -> None:
        """Nothing is kept from call to call."""

    def runtime(self, tokens: int) -> PublicRuntime:
        """For measuring: one clip stage by stage."""
        return PublicRuntime(self.model, find_encoder(self.model), self.inputs)

    def generate_answers(
        self,
        features: Waveforms,
        queries: list[Query],
        settings: Generate | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> list[Answer]:
        """As every family's; settings of a task hold for the clips of that task."""
        settings = settings or self.recipe.generate
        by_task = {task: settings.for_task(task) for task in dict.fromkeys(query.task for query in queries)}
        answers: dict[int, Answer] = {}
        for task, own in by_task.items():
            rows = [row for row, query in enumerate(queries) if query.task == task]
            asked = [queries[row] for row in rows]
            answers |= zip(rows, self._answer(features.rows(rows), asked, own, on_text), strict=True)
        return [answers[row] for row in range(len(queries))]

    def _answer(
        self, clips: Waveforms, queries: list[Query], settings: Generate, on_text: Callable[[str], None] | None
    ) -> list[Answer]:
        def search(rows: list[int], chosen: Generate) -> list[Answer]:
            return self._search(clips.rows(rows), [queries[row] for row in rows], chosen, on_text)

        return guarded(search(list(range(len(queries))), settings), settings, search)

    @torch.inference_mode()
    def _search(
        self, clips: Waveforms, queries: list[Query], settings: Generate, on_text: Callable[[str], None] | None
    ) -> list[Answer]:
        inputs = self.inputs(clips, queries)
        prompt = 0 if self.model.config.is_encoder_decoder else inputs["input_ids"].size(1)
        processors: list[LogitsProcessor] = []
        if settings.sample:
            drawn = Sampling(settings.temperature, settings.top_k, settings.top_p)
            processors.append(DrawnTokens(drawn, row_seeds(settings.seed, queries), prompt))
        watchers = []
        if on_text is not None and settings.beams == 1:
            watchers.append(_Watcher(lambda ids: on_text(self._decode(ids[:1, prompt:])[0])))
        output = self.model.generate(
            **inputs,
            max_new_tokens=settings.max_new_tokens,
            num_beams=settings.beams,
            do_sample=False,
            repetition_penalty=settings.repetition_penalty,
            length_penalty=settings.length_penalty,
            logits_processor=LogitsProcessorList(processors),
            stopping_criteria=StoppingCriteriaList(watchers),
            **self.recipe.model.options,
        )
        ids = output if isinstance(output, Tensor) else output.sequences
        texts = self._decode(ids[:, prompt:])
        pad = getattr(self.model.generation_config, "pad_token_id", None)
        counts = [int((row != pad).sum()) for row in ids[:, prompt:]]
        return [Answer(text, tokens=count) for text, count in zip(texts, counts, strict=True)]

    def _decode(self, ids: Tensor) -> list[str]:
        texts = [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]
        extract = getattr(self.processor, "extract_transcription", None)  # Qwen3-ASR names the language first
        return texts if extract is None else [extract(text) for text in texts]

    def inputs(self, clips: Waveforms, queries: list[Query]) -> dict[str, Any]:
        """What the processor makes of clips and prompts, on the model's device and in its type.

        Raises:
            RecipeError: the model takes no text and the prompt has some, or the processor refuses.
        """
        texts = [wrap(self.recipe.prompts, query) for query in queries]
        batch = processor_inputs(self.processor, clips.waves, texts)
        dtype = self.model.dtype
        return {
            name: value.to(self.device, dtype) if value.is_floating_point() else value.to(self.device)
            for name, value in batch.items()
            if isinstance(value, Tensor)
        }


class _Watcher(StoppingCriteria):
    """Reports the tokens so far, and stops nothing."""

    def __init__(self, on_ids: Callable[[Tensor], None]) -> None:
        self.on_ids = on_ids

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        self.on_ids(input_ids)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def build(
    recipe: PublicRecipe,
    device: str,
    purpose: Purpose,
    *,
    load_format: LoadFormat = "auto",
    allow_missing: bool = False,
) -> PublicModel:
    """The family's builder (`nota_cli.models.families.base.Builder`).

    Raises:
        CheckpointError: there is no such model, or it is damaged.
        RecipeError: transformers has not its type, it takes no audio, it needs remote code, or it is to be trained.
    """
    if purpose == "train":
        raise RecipeError(f"recipe {recipe.name!r} is a public model, which nota runs and measures and does not train")
    model = load_model(recipe, device, dummy=load_format == "dummy")
    return PublicModel(recipe, model, None if device == "meta" else load_processor(recipe))


def find_encoder(model: Any) -> nn.Module | None:
    """The module that makes states of the audio, by the names that transformers gives it."""
    for name in ENCODERS:
        module: Any = model
        for piece in name.split("."):
            module = getattr(module, piece, None)
        if isinstance(module, nn.Module):
            return module
    return None


def _without(module: nn.Module, left_out: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """Modules that together hold what `module` does, but for one inside it."""
    pieces: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if child is left_out:
            continue
        inside = any(inner is left_out for inner in child.modules())
        pieces += _without(child, left_out, f"{path}.") if inside else [(path, child)]
    return pieces
