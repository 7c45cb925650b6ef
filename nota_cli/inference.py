"""A model and annotation rows to texts, in order."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from nota_cli.data.annotation import Row
from nota_cli.data.batches import FeatureSpec, RowBatches, in_order, loader
from nota_cli.model.audio_lm import AudioLM
from nota_cli.recipe.schema import Generate


def feature_spec(model: AudioLM, device: torch.device | None = None) -> FeatureSpec:
    """What the model's encoders want from the audio, and where to make it: on `device` (the model's), or in workers."""
    audio = model.recipe.audio
    if audio.features == "cpu":
        place = None
    else:
        place = model.device if device is None else device
        place = place if audio.features == "device" or place.type == "cuda" else None
    front_end = None if model.audio_encoder is None else model.audio_encoder.front_end
    return FeatureSpec(model.speech_encoder.config.num_mel_bins, front_end, audio.pad, audio.max_seconds, place)


def predict(
    model: AudioLM,
    rows: Sequence[Row],
    audio_root: str | Path,
    *,
    settings: Generate | None = None,
    workers: int = 1,
    on_batch: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """The text of every row, lower-cased, in the rows' order.

    Args:
        model: as built, in eval mode.
        rows: annotation rows.
        audio_root: what their paths are relative to.
        settings: search settings, the recipe's if not given.
        workers: processes that decode audio, and make its features unless these are made on the model's device, ahead.
        on_batch: told the number of rows that each finished batch held.

    Raises:
        DataError: a file cannot be used; the message names file and row.
    """
    settings = settings or model.recipe.generate
    groups = in_order(len(rows), settings.batch_size)
    dataset = RowBatches(rows, groups, audio_root, feature_spec(model))
    texts = [""] * len(rows)
    for batch in loader(dataset, range(len(groups)), workers):
        for position, text in zip(batch.rows, model.generate(batch.features, batch.queries, settings), strict=True):
            texts[position] = text.lower()  # as the organisers write their submissions
        on_batch(len(batch.rows))
    return texts
