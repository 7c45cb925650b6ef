"""What the blocks of a decoder are given when it is calibrated, and how much each position of it counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nota_cli.errors import DataError, UsageError


@dataclass
class CalibrationBatch:
    """A batch on its way through the decoder."""

    hidden: Tensor
    """What enters the next block [B, T, D]."""
    calls: list[dict[str, Any]]
    """What each block is called with besides."""
    keep: Tensor
    """True where there is no padding [B, T]."""
    factors: Tensor
    """What the inputs of each position that is kept are multiplied by for the statistics [positions, 1]."""

    def run(self, block: nn.Module, index: int) -> Tensor:
        """What leaves the block of this index [B, T, D]."""
        output = block(self.hidden, **self.calls[index])
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        return hidden


def capture(model: Any, blocks: nn.ModuleList, batches: Sequence[Mapping[str, Tensor]]) -> list[CalibrationBatch]:
    """Run every batch once, unquantized, and note what each block is called with.

    Args:
        model: the decoder.
        blocks: its blocks, in order.
        batches: as `nota_cli.compression.gptq.quantize_to_folder` takes them.

    Raises:
        UsageError: the decoder calls its blocks in a way that is not known here.
        DataError: no position is kept, shapes do not match, or values are not finite.
    """
    masks = [batch["attention_mask"].bool() for batch in batches]
    if not any(mask.any() for mask in masks):
        raise DataError("GPTQ needs calibration data: no batch has a position that is not padding")
    calibration = []
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, dict(kwargs)))

    handles = [block.register_forward_pre_hook(note, with_kwargs=True) for block in blocks]
    try:
        for index, (batch, keep, factors) in enumerate(zip(batches, masks, _factors(masks), strict=True)):
            embeds, mask = batch["inputs_embeds"], batch["attention_mask"]
            if embeds.ndim != 3 or embeds.shape[:2] != mask.shape:
                sizes = f"embeddings {tuple(embeds.shape)} and mask {tuple(mask.shape)}"
                raise DataError(f"calibration batch {index}: {sizes} do not match")
            if not torch.isfinite(embeds[keep]).all():
                raise DataError(f"calibration batch {index}: embeddings hold values that are not finite")
            calls.clear()
            positions = {"position_ids": batch["position_ids"].to(model.device)} if "position_ids" in batch else {}
            model.base_model(  # not `model` itself: logits of all positions would be large, and are not needed
                inputs_embeds=embeds.to(model.device, model.dtype),
                attention_mask=mask.to(model.device),
                use_cache=False,
                **positions,
            )
            if len(calls) != len(blocks) or any(len(args) != 1 for args, _ in calls):
                raise UsageError(f"{type(model).__name__} calls its blocks in a way that GPTQ here does not know")
            keep, factors = keep.to(model.device), factors.to(model.device)
            calibration.append(CalibrationBatch(calls[0][0][0], [kwargs for _, kwargs in calls], keep, factors))
    finally:
        for handle in handles:
            handle.remove()
    return calibration


def _factors(masks: Sequence[Tensor]) -> list[Tensor]:
    """Of each mask [B, T], the factors of its kept positions [positions, 1] by which all clips count the same.

    A sentence has dozens of positions, a sound's name a few: counted by positions, the statistics would be those of
    the task with the longest prompts and answers alone. The squares are 1 on average.
    """
    weights = [(1 / mask.sum(dim=1, keepdim=True)).expand(mask.shape)[mask] for mask in masks]
    mean = torch.cat(weights).mean()
    return [(weight / mean).sqrt().unsqueeze(1) for weight in weights]
