"""A trained checkpoint to one whose decoder is quantized by GPTQ: adapters merged, calibrated on the recipe's clips."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from nota_cli.compression.gptq import QuantizeReport, quantize_to_folder
from nota_cli.console import progress
from nota_cli.data.batches import TrainingBatches
from nota_cli.data.row_batches import Batch, loader
from nota_cli.errors import RecipeError
from nota_cli.models.build import build
from nota_cli.models.checkpoint import save_checkpoint
from nota_cli.models.inference_lora import merge_lora
from nota_cli.recipe.sources import without_absent_sources
from nota_cli.recipe.training import Augment

if TYPE_CHECKING:
    from nota_cli.models.families.salmonn import Salmonn
    from nota_cli.recipe.schema import Recipe

BATCH = 16  # clips that go through the encoders at once

Calibration = Literal["audio", "text"]


def quantize_checkpoint(
    recipe: "Recipe",
    out: Path,
    *,
    bits: int = 4,
    group_size: int = 32,
    clips: int = 256,
    calibration: Calibration = "audio",
) -> QuantizeReport:
    """Write a recipe's full-precision checkpoint again, its decoder quantized.

    The decoder is loaded in float32 whatever `decoder.dtype` is, and its adapters are merged there: GPTQ decides what
    each weight is rounded to, and should not be given rounded ones. What is not quantized (embedding, norms) is stored
    in `decoder.dtype`.

    Args:
        recipe: with a checkpoint, and `data.calibration` or `data.train` to draw clips from.
        out: checkpoint folder to write.
        bits: bits a weight, 2, 3, 4 or 8.
        group_size: input features that share a scale, or -1 for all.
        clips: how many clips to calibrate on.
        calibration: "audio" feeds what the decoder sees in training: prompt, audio embeddings and answer; "text" feeds
            the answers' own tokens alone, as text-only tools do.

    Raises:
        RecipeError: the recipe has no training data, or its decoder is quantized already.
        UsageError: as `quantize_to_folder`.
        DataError: the same, or a clip that cannot be read.
        CheckpointError: weights that GPTQ cannot handle.
    """
    sources = recipe.data.calibration or recipe.data.train
    recipe = without_absent_sources(
        recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": sources})})
    )
    if not recipe.data.train:
        raise RecipeError("calibration needs audio: name a recipe with training data by --recipe")
    if recipe.decoder.quantization != "none":
        raise RecipeError(
            f"decoder.quantization is {recipe.decoder.quantization}: quantize a full-precision checkpoint"
        )
    full = recipe.decoder.model_copy(update={"dtype": "float32"})
    model = build(recipe.model_copy(update={"decoder": full}), purpose="convert")
    merged = merge_lora(model)
    report = quantize_to_folder(
        model.decoder.base,
        model.decoder.tokenizer,
        _calibration_batches(model, clips, calibration),
        out / "decoder",
        bits=bits,
        group_size=group_size,
        dtype=getattr(torch, recipe.decoder.dtype),
    )
    decoder = recipe.decoder.model_copy(
        update={"path": str(out / "decoder"), "config": None, "tokenizer": None, "train": False, "quantization": "gptq"}
    )
    changes = {"decoder": decoder} | ({"lora": None} if merged else {})
    model.recipe = model.recipe.model_copy(update=changes)
    save_checkpoint(model, out, getattr(torch, recipe.train.save_dtype))
    return report


def _calibration_batches(model: "Salmonn", clips: int, calibration: Calibration) -> list[dict[str, Tensor]]:
    """Batches of decoder inputs `[batch, length, width]` and their masks, drawn from the recipe's training data."""
    recipe = model.recipe
    batches = TrainingBatches(recipe.data.train, model.preprocessor(), Augment(), BATCH, recipe.train.seed + 1)
    calibration_batches = []
    with torch.no_grad(), progress() as bar:
        task = bar.add_task("calibrate", total=clips, detail="")
        for batch in loader(batches, range(-(-clips // BATCH)), recipe.train.workers):
            if calibration == "audio":
                embeds, mask = model.answer_embeds(batch.features, batch.queries, batch.texts)
            else:
                embeds, mask = _text_embeds(model, batch)
            calibration_batches.append({"inputs_embeds": embeds, "attention_mask": mask})
            bar.advance(task, len(batch.texts))
    return calibration_batches


def _text_embeds(model: "Salmonn", batch: Batch) -> tuple[Tensor, Tensor]:
    """The texts of a batch as token embeddings `[batch, length, width]`, right-padded, and their mask."""
    decoder = model.decoder
    start = decoder.tokenizer.bos_token_id
    rows = [
        torch.tensor(([] if start is None else [start]) + decoder.token_ids(text + model.end_symbol))
        for text in batch.texts
    ]
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return decoder.embed(ids.to(model.device)), mask.to(model.device)
