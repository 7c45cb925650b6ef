"""Whether a model says the same of clips alone and in one batch: where padding leaks, unlike lengths show it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nota_cli.data.annotation import Row
from nota_cli.data.row_batches import RowBatches
from nota_cli.models.families.base import AudioModel

CLIPS = 4  # compared where nothing else is asked for


@dataclass(frozen=True)
class Difference:
    """A clip whose text depends on what it is batched with.

    Attributes:
        position: of the row.
        alone: its text at batch 1.
        together: its text in the batch.
    """

    position: int
    alone: str
    together: str


def unlike(positions: Sequence[int], seconds: Sequence[float], count: int = CLIPS) -> list[int]:
    """Positions of clips from the shortest to the longest, as far apart as may be.

    Args:
        positions: of rows.
        seconds: for each of them its clip's length.
        count: how many.
    """
    order = [position for _, position in sorted(zip(seconds, positions, strict=True))]
    if len(order) <= count:
        return order
    return [order[round(step * (len(order) - 1) / (count - 1))] for step in range(count)]


def differences(
    model: AudioModel, rows: Sequence[Row], audio_root: str | Path, positions: Sequence[int]
) -> list[Difference]:
    """Clips that the model answers otherwise in one batch than alone.

    Args:
        model: in evaluation mode.
        rows: annotation rows.
        audio_root: what their paths are relative to.
        positions: which of them make the batch.
    """
    groups = [list(positions), *([position] for position in positions)]
    batches = RowBatches(rows, groups, audio_root, model.preprocessor())
    texts = []
    for number in range(len(groups)):
        batch = batches[number]
        encoded = model.encode_batch(batch.features)
        texts.append([answer.text for answer in model.generate_answers(encoded, batch.queries)])
    together, alone = texts[0], [single[0] for single in texts[1:]]
    triples = zip(positions, alone, together, strict=True)
    return [Difference(position, one, other) for position, one, other in triples if one != other]
